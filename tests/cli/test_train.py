"""`vbdguard train` from the command line to weights on disk, with nothing replaced."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import load_file

from vbdguard.attacks.poison import Poisoned, poison_arrays
from vbdguard.attacks.triggers import builtin_patch, place
from vbdguard.cli.demo_data import DemoSet
from vbdguard.cli.main import main
from vbdguard.config import ScanConfig
from vbdguard.ingest.reader import ingest
from vbdguard.method.pipeline import ClassFinding, Detection
from vbdguard.method.trigger import TriggerCandidate
from vbdguard.report import ScanReport
from vbdguard.report_building import build_report
from vbdguard.sources.base import RawSample
from vbdguard.sources.writing import write_shards

CLASSES = (1, 4, 9)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def write(folder: Path, per_class: int, seed: int, *, poisoned: bool) -> Poisoned | None:
    """Crops of three photographs at 16 x 16 pixels as shards, a fifth of them with a white square and class 0."""
    drawn = [sample for sample in DemoSet(per_class, seed=seed).samples() if sample.label in CLASSES]
    images = np.stack([np.asarray(s.image) for s in drawn]).reshape(-1, 16, 2, 16, 2, 3).mean((2, 4)).astype(np.uint8)
    labels = np.array([CLASSES.index(int(sample.label)) for sample in drawn])
    truth = poison_arrays(images, labels, "white_square", ratio=0.2, target=0) if poisoned else None
    if truth is not None:
        images, labels = truth.images, truth.labels
    pairs = enumerate(zip(images, labels.tolist(), strict=True))
    write_shards((RawSample(f"s{number:04d}", image, label) for number, (image, label) in pairs), folder)
    return truth


@dataclass(frozen=True)
class Drill:
    """A poisoned training set, a clean test set and the report that a scan without fault would give."""

    train: Path
    test: Path
    report: Path
    flagged: int

    def run(self, output: Path, *options: str | Path) -> Result:
        """Train for three short epochs."""
        settings = ("--model", "small", "--epochs", "5", "--batch-size", "16", "--lr", "0.05", "--no-augment")
        arguments = ["train", self.train, "-o", output, *settings, "--device", "cpu", "--jobs", "1", *options]
        return CliRunner().invoke(main, [*map(str, arguments)])


@pytest.fixture(scope="module")
def drill(tmp_path_factory: pytest.TempPathFactory) -> Drill:
    folder = tmp_path_factory.mktemp("drill")
    truth = write(folder / "train", 100, 0, poisoned=True)
    write(folder / "test", 30, 1, poisoned=False)
    assert truth is not None
    report = faultless_report(folder, truth)
    (folder / "report.json").write_text(report.to_json())
    return Drill(folder / "train", folder / "test", folder / "report.json", len(report.flagged))


def faultless_report(folder: Path, truth: Poisoned) -> ScanReport:
    """The report on the training set, with the truth in the place of stages 1 to 6."""
    ingested = ingest(str(folder / "train"), store_dir=folder / "store")
    places = [int(key.rsplit("/s")[1]) for key in ingested.store.keys]
    is_flagged = torch.from_numpy(truth.is_poisoned[places])
    planted = place(builtin_patch("white_square"), (16, 16))
    pattern = torch.from_numpy(planted.pattern).permute(2, 0, 1).float()
    trigger = TriggerCandidate(torch.from_numpy(planted.mask), pattern)
    guilty = ClassFinding(0, True, 0.0, 1.0, trigger, 1.0)
    innocent = [ClassFinding(label, False, 0.5, None, None, None) for label in (1, 2)]
    suggested = torch.where(is_flagged, torch.from_numpy(truth.original_labels[places]), -1)
    detection = Detection((guilty, *innocent), is_flagged, is_flagged.float(), suggested, {})
    return build_report(ingested, detection, ScanConfig(device="cpu"), device="cpu", seconds={"total": 0.0})


@pytest.fixture(scope="module")
def done(drill: Drill, tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, Path]:
    """A training that compares, with the true trigger."""
    output = tmp_path_factory.mktemp("done")
    options = ("--report", drill.report, "--test", drill.test, "--compare", "--trigger", "white_square")
    return drill.run(output, *options), output


def test_poison_that_is_kept_out_is_a_success(done: tuple[Result, Path], drill: Drill) -> None:
    result, output = done
    assert result.exit_code == 0, result.output
    body = json.loads((output / "result.json").read_text())
    assert body["attack_success_rate_before"] > 0.9
    assert body["attack_success_rate"] < 0.1
    assert body["clean_accuracy"] > 0.7
    assert (body["verdict"], body["status"], body["counts"]["left_out"]) == ("poisoned", "complete", drill.flagged)
    assert (output / "report.json").read_text() == drill.report.read_text()
    assert load_file(output / "model.safetensors").keys() == load_file(output / "unguarded/model.safetensors").keys()


def test_the_summary_shows_before_and_after(done: tuple[Result, Path], drill: Drill) -> None:
    result, output = done
    kept = 300 - drill.flagged
    assert f"TRAINED: small on {kept} samples that the scan kept; of {drill.flagged} flagged" in result.stdout
    assert "poisoned model" in result.stdout
    assert "attack success, known trigger, class 0" in result.stdout
    assert f"Weights: {output}/model.safetensors" in result.stdout
    assert "epoch   5   loss " in result.stderr
    assert "Training on everything, to compare" in result.stderr


def test_json_is_all_that_goes_to_stdout_and_a_finished_training_is_not_repeated(
    done: tuple[Result, Path], drill: Drill
) -> None:
    _, output = done
    before = (output / "model.safetensors").read_bytes()
    result = drill.run(output, "--report", drill.report, "--format", "json")
    body = json.loads(result.stdout)
    assert (result.exit_code, len(body["epochs"]), body["clean_accuracy"]) == (0, 5, None)
    assert "epoch   1" not in result.stderr
    assert (output / "model.safetensors").read_bytes() == before


def test_a_poisoned_model_is_mended(done: tuple[Result, Path], drill: Drill, tmp_path: Path) -> None:
    init = done[1] / "unguarded"
    options = ("--report", drill.report, "--test", drill.test, "--init", init, "--policy", "unlearn")
    result = drill.run(tmp_path, *options, "--quiet")
    assert result.exit_code == 0, result.output
    body = json.loads((tmp_path / "result.json").read_text())
    assert body["attack_success_rate"] < 0.2 < 0.9 < body["attack_success_rate_before"]
    assert [attack["trigger"] for attack in body["attacks"]] == ["extracted"]
    assert len(result.stdout.splitlines()) == 1
    assert result.stderr == ""


def test_another_training_in_the_same_folder_is_refused_until_told(
    done: tuple[Result, Path], drill: Drill, tmp_path: Path
) -> None:
    for name in ("training.json", "model.safetensors"):
        (tmp_path / name).write_bytes((done[1] / name).read_bytes())
    refused = drill.run(tmp_path, "--report", drill.report, "--seed", "1")
    assert refused.exit_code == 2
    assert "the checkpoint there is of another training (seed 0 instead of 1)" in refused.stderr
    assert drill.run(tmp_path, "--report", drill.report, "--seed", "1", "--no-resume").exit_code == 0


def test_what_could_not_be_read_ends_with_2_although_the_rest_trains(drill: Drill, tmp_path: Path) -> None:
    train = tmp_path / "train"
    train.mkdir()
    for path in drill.train.iterdir():
        (train / path.name).write_bytes(path.read_bytes())
    saved = json.loads(drill.report.read_text())
    with tarfile.open(train / "train-000001.tar", "w") as tar:
        for name, content in (("broken.png", b"no image"), ("broken.cls", b"1")):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    ingested = ingest(str(train), store_dir=tmp_path / "store")
    saved["dataset"]["digest"] = ingested.dataset_digest
    saved["status"] = "incomplete"
    saved["skipped"] = [{"key": one.key, "reason": one.reason, "detail": one.detail} for one in ingested.skipped]
    (tmp_path / "report.json").write_text(json.dumps(saved))
    broken = replace(drill, train=train)
    result = broken.run(tmp_path / "out", "--report", tmp_path / "report.json")
    assert result.exit_code == 2
    assert "1 entry could not be read and did not train" in result.stdout
    assert (tmp_path / "out" / "model.safetensors").is_file()


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT to another process")
def test_ctrl_c_ends_with_130_and_says_how_to_go_on(drill: Drill, tmp_path: Path) -> None:
    arguments = ["train", drill.train, "-o", tmp_path, "--model", "small", "--epochs", "5000", "--batch-size", "16"]
    command = [sys.executable, "-m", "vbdguard.cli.main", *arguments, "--report", drill.report, "--device", "cpu"]
    process = subprocess.Popen(
        [*map(str, command), "--jobs", "1"], stderr=subprocess.PIPE, text=True, env=dict(os.environ)
    )
    deadline = time.monotonic() + 120
    while not (tmp_path / "training.json").exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "the last finished epoch is kept in" in errors
    assert "run the same command again to go on" in errors
    state = json.loads((tmp_path / "training.json").read_text())
    assert (tmp_path / state["weights"]["name"]).is_file()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--quiet", "--verbose"), "contradict each other"),
        (("--no-cache", "--refresh"), "--no-cache uses no cache"),
        (("--compare",), "need test samples; pass --test"),
        (("--trigger", "waves"), "need test samples; pass --test"),
        (("--target", "3"), "--target describes a trigger that is known"),
        (("--blend-factor", "0.5"), "--blend-factor describes a trigger"),
        (("--epochs", "0"), "--epochs"),
        (("--policy", "drop"), "--policy"),
        (("--model", "resnet19"), "did you mean resnet18"),
        (("--init", "nowhere.pt"), "nowhere.pt"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_bad_usage_ends_with_2_and_trains_nothing(
    options: tuple[str, ...], message: str, drill: Drill, tmp_path: Path
) -> None:
    result = CliRunner().invoke(main, ["train", str(drill.train), "-o", str(tmp_path / "out"), *options])
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
    assert not (tmp_path / "out").exists()


def test_compare_with_a_model_to_mend_is_refused(done: tuple[Result, Path], drill: Drill, tmp_path: Path) -> None:
    result = drill.run(tmp_path, "--init", done[1], "--test", drill.test, "--compare")
    assert result.exit_code == 2
    assert "drop --compare" in result.stderr


def test_an_empty_folder_ends_with_3(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    result = CliRunner().invoke(
        main, ["train", str(tmp_path / "empty"), "-o", str(tmp_path / "out"), "--model", "small"]
    )
    assert result.exit_code == 3


def test_help_loads_no_torch_and_lists_the_exit_codes() -> None:
    code = (
        "import sys; from click.testing import CliRunner; from vbdguard.cli.main import main\n"
        "r = CliRunner().invoke(main, ['train', '--help']); assert r.exit_code == 0, r.output\n"
        "assert '    130  interrupted; run the same command again' in r.output\n"
        "print([m for m in ('torch', 'rich', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=dict(os.environ)
    )
    assert done.stdout.strip() == "[]"
