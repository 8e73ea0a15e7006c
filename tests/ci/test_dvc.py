"""The DVC stages: their commands run as DVC runs them, in a shell; by DVC itself where it is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from vbdguard.report import ScanReport

EXAMPLE = Path(__file__).resolve().parent.parent.parent / "docs" / "ci" / "dvc.yaml"
STAGES: dict[str, Any] = yaml.safe_load(EXAMPLE.read_text())["stages"]
POISON = {"train-000000.tar/s01": 0, "train-000002.tar/s09": None}

MakeData = Callable[..., ScanReport]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    shutil.copy(EXAMPLE, folder / "dvc.yaml")
    (folder / "vbdguard.toml").write_text("seed = 0\n")
    (folder / "train.py").write_text("import pathlib\npathlib.Path('model').write_text('trained')\n")
    return folder


def call(project: Path, *command: str) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(
        command,
        cwd=project,
        env={**os.environ, "PATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )


def repro(project: Path) -> int:
    """Run the stages in their order, as far as they succeed."""
    for stage in ("scan", "train"):
        if code := call(project, "/bin/sh", "-c", STAGES[stage]["cmd"]).returncode:
            return code
    return 0


def outs(stage: str) -> list[str]:
    return [next(iter(out)) if isinstance(out, dict) else out for out in STAGES[stage]["outs"]]


def test_clean_data_are_trained_on_and_every_output_is_there(project: Path, known_data: MakeData) -> None:
    known_data("project/data/train")
    assert repro(project) == 0
    assert all((project / out).is_file() for stage in STAGES for out in outs(stage))


def test_training_does_not_start_where_the_scan_found_poison(project: Path, known_data: MakeData) -> None:
    known_data("project/data/train", POISON)
    assert repro(project) == 1
    assert not (project / "model").exists()


def test_training_does_not_start_on_data_that_changed_after_the_scan(project: Path, known_data: MakeData) -> None:
    known_data("project/data/train")
    assert call(project, "/bin/sh", "-c", STAGES["scan"]["cmd"]).returncode == 0
    shutil.copy(project / "data/train/train-000000.tar", project / "data/train/train-000001.tar")
    done = call(project, "/bin/sh", "-c", STAGES["train"]["cmd"])
    assert done.returncode == 2
    assert "changed     train-000001.tar" in done.stdout
    assert not (project / "model").exists()


def test_training_depends_on_what_the_scan_writes() -> None:
    assert set(STAGES["train"]["deps"]) & set(outs("scan")) == {"vbdguard.lock"}


@pytest.mark.skipif(shutil.which("dvc") is None, reason="dvc is not installed")
def test_dvc_reproduces_the_stages(project: Path, known_data: MakeData) -> None:
    known_data("project/data/train")
    assert call(project, "dvc", "init", "--no-scm", "-q").returncode == 0
    done = call(project, "dvc", "repro")
    assert done.returncode == 0, done.stdout
    assert (project / "model").read_text() == "trained"
    assert "didn't change, skipping" in call(project, "dvc", "repro").stdout
