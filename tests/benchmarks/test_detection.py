"""The bench as a command: real scans of small generated data, resumed, split, cut off."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import detection, ours
from benchmarks.methods import Task, Verdict
from vbdguard.cli.demo_data import DemoSet
from vbdguard.config import EnsembleConfig, MethodConfig
from vbdguard.sources.writing import encode_image

PER_CLASS = 40


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Demo crops of ten classes in the layout of Hugging Face, with a test split."""
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    folder = tmp_path_factory.mktemp("bench") / "crops"
    folder.mkdir()
    for split, per_class, seed in (("train", PER_CLASS, 0), ("test", 12, 1)):
        drawn = list(DemoSet(per_class, seed).samples())
        cells = [{"bytes": encode_image(np.asarray(sample.image)), "path": None} for sample in drawn]
        table = pa.table({"image": cells, "label": [sample.label for sample in drawn]})
        pq.write_table(table, folder / f"{split}-00000-of-00001.parquet")
    return folder


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings with which a scan takes a second."""
    config = MethodConfig(ensemble=EnsembleConfig(architectures=((4,),), epochs=1, batch_size=32))
    monkeypatch.setattr(ours, "method_preset", lambda _: config)


@dataclass
class Recorder:
    """A method that knows nothing, flags the first sample, and keeps what it was handed."""

    name: str = "recorder"
    needs: frozenset[str] = frozenset()
    tasks: list[Task] = field(default_factory=list)
    error: BaseException | None = None

    def detect(self, data: Task, *, seed: int, device: torch.device) -> Verdict:
        self.tasks.append(data)
        if self.error is not None:
            raise self.error
        return Verdict(np.arange(len(data.labels)) == 0, frozenset({int(data.labels[0])}), {"guessing": 0.25}, {"a": 1})


def command_line(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["detection", *map(str, arguments)])
    detection.main()


def with_methods(monkeypatch: pytest.MonkeyPatch, *methods: Recorder) -> None:
    monkeypatch.setattr(detection, "choose", lambda *_: {method.name: method for method in methods})


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.usefixtures("quick")
def test_the_smoke_scale_measures_its_cells_end_to_end(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "results.jsonl"
    command_line(monkeypatch, "--data", folder, "--scale", "smoke", "--out", out, "--device", "cpu")
    clean, poisoned = read(out)
    assert (clean["cell"], poisoned["cell"]) == ("clean", "a2o/white_grid/1/0.1")
    assert (poisoned["data"], poisoned["limit"], poisoned["seed"], poisoned["method"]) == ("crops", 5000, 0, "default")
    assert (poisoned["samples"], poisoned["poisoned"], clean["poisoned"]) == (400, 40, 0)
    assert poisoned["settings"]["ensemble"]["architectures"] == [[4]]
    assert poisoned["trigger_from"] == "built in"
    assert set(poisoned["seconds"]) == {
        *("ensemble", "suspects", "trigger", "attack_check", "detector", "flagging", "total")
    }
    assert poisoned["environment"]["torch"] == torch.__version__
    assert poisoned["peak_memory_mb"] > 50
    assert capsys.readouterr().out.count("F1") == 2


@pytest.mark.usefixtures("quick")
def test_a_run_that_stands_in_the_file_is_not_repeated(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "results.jsonl"
    common = ("--data", folder, "--cells", "clean", "--out", out, "--device", "cpu", "--limit", 60)
    command_line(monkeypatch, *common, "--seeds", 0)
    command_line(monkeypatch, *common, "--seeds", 0, 1)
    assert [record["seed"] for record in read(out)] == [0, 1]
    assert capsys.readouterr().out.count("\n") == 2


def test_old_records_and_other_limits_are_told_apart(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "results.jsonl"
    out.write_text('{"data": "crops", "cell": "clean", "seed": 0, "preset": "recorder"}\n')
    with_methods(monkeypatch, Recorder())
    command_line(monkeypatch, "--data", folder, "--out", out)
    assert len(read(out)) == 1
    command_line(monkeypatch, "--data", folder, "--out", out, "--limit", 50)
    assert [record.get("limit") for record in read(out)] == [None, 50]


def test_methods_get_what_they_need_and_nothing_else(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modest, needy = Recorder(), Recorder("needy", frozenset({"clean", "ratio"}))
    with_methods(monkeypatch, modest, needy)
    out = tmp_path / "results.jsonl"
    command_line(monkeypatch, "--data", folder, "--cells", "a2o/white_square/1/0.2", "--out", out)
    (task,) = modest.tasks
    assert (task.clean_images, task.clean_labels, task.ratio) == (None, None, None)
    (task,) = needy.tasks
    assert task.ratio == pytest.approx(0.2)
    assert task.clean_labels is not None
    assert np.bincount(task.clean_labels).tolist() == [10] * 10
    assert [record["clean_samples_from"] for record in read(out)] == [None, "test"]
    np.testing.assert_array_equal(task.images, modest.tasks[0].images)


@pytest.mark.usefixtures("quick")
def test_cells_that_the_paper_lacks_go_through_a_scan(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = ("a2o/white_square/1/0.05+classes2", "a2o/white_grid+jpeg75+place", "a2a/white_square/0.5/0.3+grey")
    out = tmp_path / "results.jsonl"
    options = ("--cells", *cells, "clean+imbalance100", "--seeds", 3, "--out", out, "--device", "cpu")
    command_line(monkeypatch, "--data", folder, *options)
    records = read(out)
    assert [(record["samples"], record["poisoned"]) for record in records[:3]] == [(80, 4), (400, 40), (400, 120)]
    assert [record["classes_attacked"] for record in records] == [1, 1, 10, 0]
    assert 40 < records[3]["samples"] < 400


def test_parts_share_the_runs_out_among_them(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_methods(monkeypatch, Recorder(), Recorder("other"))
    found = []
    for part in ("1/3", "2/3", "3/3"):
        out = tmp_path / f"{part[0]}.jsonl"
        options = ("--cells", "clean", "a2o/white_grid", "--seeds", 0, 1, "--part", part, "--out", out)
        command_line(monkeypatch, "--data", folder, *options)
        found += [(record["cell"], record["seed"], record["method"]) for record in read(out)]
    assert len(found) == len(set(found)) == 8


def test_a_rival_runs_with_settings_that_stand_behind_its_name(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "results.jsonl"
    small = ("--rival-settings", "width=8", "victim_epochs=1", "--limit", 200, "--device", "cpu")
    methods = ("activation_clustering", "scan", "spectral")
    command_line(
        monkeypatch, "--data", folder, "--cells", "a2o/white_grid", "--methods", *methods, *small, "--out", out
    )
    records = read(out)
    assert [record["method"] for record in records] == [f"{name}@victim_epochs=1,width=8" for name in methods]
    assert [record["clean_samples_from"] for record in records] == [None, "test", None]
    for record in records:
        assert record["settings"]
        assert 0 <= record["f1"] <= 100


def test_clean_cells_have_seeds_of_their_own(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_methods(monkeypatch, Recorder())
    out = tmp_path / "results.jsonl"
    options = ("--cells", "clean", "a2o/white_grid", "--clean-seeds", 5, 6, "--seeds", 1, "--out", out)
    command_line(monkeypatch, "--data", folder, *options)
    assert [(record["cell"], record["seed"]) for record in read(out)] == [
        *(("clean", 5), ("clean", 6)),
        ("a2o/white_grid/1/0.1", 1),
    ]


def test_a_method_that_fails_is_told_of_and_the_others_go_on(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with_methods(monkeypatch, Recorder("broken", error=RuntimeError("no convergence")), Recorder())
    out = tmp_path / "results.jsonl"
    with pytest.raises(SystemExit, match="1 runs failed: clean seed 0 broken"):
        command_line(monkeypatch, "--data", folder, "--out", out)
    assert [record["method"] for record in read(out)] == ["recorder"]
    assert "no convergence" in capsys.readouterr().err


def test_an_interrupt_leaves_the_finished_runs_and_the_same_command_goes_on(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with_methods(monkeypatch, Recorder(), Recorder("slow", error=KeyboardInterrupt()))
    out = tmp_path / "results.jsonl"
    with pytest.raises(SystemExit) as stop:
        command_line(monkeypatch, "--data", folder, "--out", out)
    assert stop.value.code == 130
    assert "goes on" in capsys.readouterr().err
    assert [record["method"] for record in read(out)] == ["recorder"]
    with_methods(monkeypatch, Recorder(), Recorder("slow"))
    command_line(monkeypatch, "--data", folder, "--out", out)
    assert [record["method"] for record in read(out)] == ["recorder", "slow"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "--data"),
        (("--data", "nowhere"), "train-*.parquet"),
        (("--data", "demo", "--cells", "table9"), "table1"),
        (("--data", "demo", "--cells", "a2o/pentagram"), "pentagram"),
        (("--data", "demo", "--part", "3/2"), "i/N"),
        (("--data", "demo", "--device", "abacus"), "abacus"),
        (("--data", "demo", "--methods", "guess"), "rivals for all"),
        (("--data", "demo", "--rival-settings", "depth=3"), "victim_epochs"),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_runs(
    options: tuple[str, ...],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("benchmarks.data._DEMO_PER_CLASS", 12)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        command_line(monkeypatch, *options)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
