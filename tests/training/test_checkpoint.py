"""A training that was cut off goes on to the weights of one that was not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from vbdguard.errors import ConfigError
from vbdguard.progress import Silent
from vbdguard.training.result import EpochResult
from vbdguard.training.train import train_clean


class Stopping(Silent):
    """Raises after so many steps of the training."""

    def __init__(self, steps: int) -> None:
        self._left = steps
        self._is_training = False

    def begin(self, stage: str, total: int | None) -> None:
        self._is_training = stage.startswith("Training")

    def advance(self, steps: int = 1) -> None:
        if self._is_training:
            self._left -= steps
            if self._left <= 0:
                raise KeyboardInterrupt


@pytest.fixture(scope="module")
def choices(poisoned_set: Any) -> dict[str, Any]:
    """Augmentation on, since it draws; 28 steps an epoch, three epochs."""
    return {**poisoned_set.options, "epochs": 3, "augment": True}


@pytest.fixture(scope="module")
def whole(poisoned_set: Any, choices: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The weights of an uninterrupted training."""
    return dict(train_clean(poisoned_set.train, **choices).model.state_dict())


def same(found: Any, whole: dict[str, torch.Tensor]) -> bool:
    return found.keys() == whole.keys() and all(torch.equal(found[name], whole[name]) for name in whole)


def interrupt(source: str, folder: Path, choices: dict[str, Any], *, steps: int = 40) -> None:
    with pytest.raises(KeyboardInterrupt):
        train_clean(source, **choices, checkpoint_dir=folder, progress=Stopping(steps))


def test_an_interrupted_training_goes_on_to_the_same_weights(
    poisoned_set: Any, choices: dict[str, Any], whole: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    interrupt(poisoned_set.train, tmp_path, choices)
    assert {path.name for path in tmp_path.iterdir()} == {
        "training.json",
        "weights-0001.safetensors",
        "momentum-0001.safetensors",
    }
    heard: list[EpochResult] = []
    result = train_clean(poisoned_set.train, **choices, checkpoint_dir=tmp_path, on_epoch=heard.append)
    assert [epoch.epoch for epoch in heard] == [2, 3]
    assert [epoch.epoch for epoch in result.epochs] == [1, 2, 3]
    assert same(result.model.state_dict(), whole)
    assert same(load_file(tmp_path / "model.safetensors"), whole)
    assert {path.name for path in tmp_path.iterdir()} == {"training.json", "model.safetensors"}


KILLED = """
import json, os, signal, sys
import torch
from vbdguard.config import ScanConfig
from vbdguard.progress import Silent
from vbdguard.report import ScanReport
from vbdguard.training import checkpoint
from vbdguard.training.train import train_clean

torch.set_num_threads(1)
source, cache, report, folder, choices, where = sys.argv[1:]

class Killing(Silent):
    left = 40
    def begin(self, stage, total):
        self.counts = stage.startswith("Training")
    def advance(self, steps=1):
        self.left -= steps if self.counts else 0
        if self.left <= 0 and where == "in an epoch":
            os.kill(os.getpid(), signal.SIGKILL)

def torn(path, text):
    if json.loads(text)["epochs"][-1]["epoch"] == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    written(path, text)

written = checkpoint.write_atomically
if where == "while a checkpoint is written":
    checkpoint.write_atomically = torn
train_clean(
    source, report=ScanReport.from_json(open(report).read()), cache_dir=cache, config=ScanConfig(jobs=1),
    checkpoint_dir=folder, progress=Killing(), **json.loads(choices)
)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
@pytest.mark.parametrize("where", ["in an epoch", "while a checkpoint is written"])
def test_a_killed_training_goes_on_to_the_same_weights(
    where: str, poisoned_set: Any, choices: dict[str, Any], whole: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    report, folder = tmp_path / "report.json", tmp_path / "out"
    report.write_text(poisoned_set.report.to_json())
    plain = {name: value for name, value in choices.items() if name not in ("config", "report", "cache_dir")}
    arguments = [poisoned_set.train, str(poisoned_set.cache), str(report), str(folder), json.dumps(plain), where]
    done = subprocess.run([sys.executable, "-c", KILLED, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == -9, done.stderr
    assert len(json.loads((folder / "training.json").read_text())["epochs"]) == 1
    result = train_clean(poisoned_set.train, **choices, checkpoint_dir=folder)
    assert same(result.model.state_dict(), whole)
    assert {path.name for path in folder.iterdir()} == {"training.json", "model.safetensors"}


def test_a_finished_training_is_taken_as_it_is(trained: tuple[Any, Path], poisoned_set: Any) -> None:
    result, folder = trained
    heard: list[EpochResult] = []
    again = train_clean(poisoned_set.train, **poisoned_set.options, checkpoint_dir=folder, on_epoch=heard.append)
    assert not heard
    assert again.epochs == result.epochs
    assert same(again.model.state_dict(), dict(result.model.state_dict()))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 4}, "epochs 3 instead of 4"),
        ({"seed": 1}, "seed 0 instead of 1"),
        ({"policy": "relabel"}, "policy suppress instead of relabel"),
        ({"model": "preact_resnet18"}, "model small instead of preact_resnet18"),
        ({"amp": "off"}, "precision bfloat16 instead of float32"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_checkpoint_of_another_training_is_refused(
    change: dict[str, Any], message: str, poisoned_set: Any, choices: dict[str, Any], interrupted: Path
) -> None:
    with pytest.raises(ConfigError, match=f"of another training .*{message}.*resume=False"):
        train_clean(poisoned_set.train, **{**choices, "amp": "on", **change}, checkpoint_dir=interrupted)


def test_a_checkpoint_on_other_data_is_refused(poisoned_set: Any, choices: dict[str, Any], interrupted: Path) -> None:
    from dataclasses import replace

    fewer = replace(poisoned_set.report, flagged=poisoned_set.report.flagged[1:])
    with pytest.raises(ConfigError, match=r"another training \(lessons "):
        train_clean(poisoned_set.train, **{**choices, "amp": "on", "report": fewer}, checkpoint_dir=interrupted)


@pytest.fixture(scope="module")
def interrupted(poisoned_set: Any, choices: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the checkpoint of the first epoch, computed in bfloat16."""
    folder = tmp_path_factory.mktemp("interrupted")
    interrupt(poisoned_set.train, folder, {**choices, "amp": "on"}, steps=30)
    return folder


def test_on_request_a_training_starts_over(
    poisoned_set: Any, choices: dict[str, Any], whole: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    interrupt(poisoned_set.train, tmp_path, {**choices, "seed": 1})
    result = train_clean(poisoned_set.train, **choices, checkpoint_dir=tmp_path, resume=False)
    assert same(result.model.state_dict(), whole)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "training.json").write_text("{"), "damaged"),
        (lambda folder: (folder / "weights-0001.safetensors").unlink(), "damaged .*weights-0001"),
        (lambda folder: (folder / "weights-0001.safetensors").write_bytes(b"x" * 99), "other bytes than were written"),
    ],
    ids=["no JSON", "weights gone", "weights changed"],
)
def test_a_damaged_checkpoint_is_named_and_not_used(
    damage: Any, message: str, poisoned_set: Any, choices: dict[str, Any], interrupted: Path, tmp_path: Path
) -> None:
    for path in interrupted.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    damage(tmp_path)
    with pytest.raises(ConfigError, match=f"{message}.*resume=False"):
        train_clean(poisoned_set.train, **{**choices, "amp": "on"}, checkpoint_dir=tmp_path)
