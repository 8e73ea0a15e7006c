"""The GitLab template: its schema, and its scripts run as a runner runs them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml

from vbdguard.baseline import Baseline
from vbdguard.findings import findings_of
from vbdguard.receipt import Receipt
from vbdguard.report import ScanReport

TEMPLATE = Path(__file__).resolve().parent.parent.parent / "docs" / "ci" / "gitlab.yml"
JOBS: dict[str, Any] = yaml.safe_load(TEMPLATE.read_text())
POISON = {"train-000000.tar/s01": 0, "train-000002.tar/s09": None}

MakeData = Callable[..., ScanReport]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project directory where vbdguard is installed already."""
    binaries = tmp_path / "project" / ".vbdguard" / "venv" / "bin"
    binaries.mkdir(parents=True)
    (binaries / "vbdguard").symlink_to(Path(sys.executable).parent / "vbdguard")
    return tmp_path / "project"


def run(job: str, project: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a job's script, but for the lines that install."""
    lines = [line for line in JOBS[job]["script"] if "-m venv" not in line and "pip install" not in line]
    assert len(lines) < len(JOBS[job]["script"])
    own = {**JOBS["variables"], **JOBS[job].get("variables", {})}
    kept = {name: value for name, value in own.items() if name != "VBDGUARD_CACHE"}
    return subprocess.run(
        ["bash", "-eo", "pipefail", "-c", "\n".join(lines)],
        cwd=project,
        env={**os.environ, **kept, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )


def test_the_template_is_valid() -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.gitlab-ci", TEMPLATE]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(("flagged", "code"), [({}, 0), (POISON, 1)], ids=["clean", "poisoned"])
def test_a_scan_leaves_a_test_report_and_its_exit_code(
    flagged: dict[str, int | None], code: int, project: Path, known_data: MakeData
) -> None:
    known_data("project/data/train", flagged)
    done = run("vbdguard-scan", project)
    assert done.returncode == code, done.stdout
    report = JOBS["vbdguard-scan"]["artifacts"]["reports"]["junit"]
    suite = ElementTree.parse(project / report).getroot()
    assert sum(1 for _ in suite.iter("failure")) == (1 if flagged else 0)
    assert JOBS["vbdguard-scan"]["artifacts"]["when"] == "always"


def test_verify_fails_on_changed_data_by_name(project: Path, known_data: MakeData) -> None:
    report = known_data("project/data/train")
    Receipt.of(report, project / "vbdguard.lock").write(project / "vbdguard.lock")
    assert run("vbdguard-verify", project).returncode == 0
    shard = project / "data/train/train-000003.tar"
    shard.write_bytes(shard.read_bytes() + bytes(512))
    done = run("vbdguard-verify", project)
    assert done.returncode == 2
    assert "changed     train-000003.tar" in done.stdout


def test_what_is_accepted_passes_both_jobs(project: Path, known_data: MakeData) -> None:
    report = known_data("project/data/train", POISON)
    Receipt.of(report, project / "vbdguard.lock").write(project / "vbdguard.lock")
    assert run("vbdguard-verify", project).returncode == 1
    Baseline.empty().updated(findings_of(report), reason="a drill", expires=None).write(
        project / "accepted findings.json"
    )
    for job in ("vbdguard-scan", "vbdguard-verify"):
        done = run(job, project, VBDGUARD_BASELINE="accepted findings.json")
        assert done.returncode == 0, done.stdout


def test_data_in_parquet_bring_what_reads_them(project: Path) -> None:
    lines = JOBS["vbdguard-verify"]["script"]
    choosing, installing = (next(line for line in lines if word in line) for word in ("case ", "pip install"))
    for extras, packages in (("", "numpy"), ("parquet", "numpy pyarrow"), ("s3,parquet", "numpy pyarrow")):
        script = f"{choosing}\necho {installing}"
        done = subprocess.run(
            ["bash", "-euc", script],
            env={"VBDGUARD_EXTRAS": extras, "VBDGUARD_PACKAGE": "./vbdguard"},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip().endswith(packages)


def test_variables_choose_the_data(project: Path, known_data: MakeData) -> None:
    known_data("project/other", POISON)
    done = run("vbdguard-scan", project, VBDGUARD_SOURCE="other", VBDGUARD_ARGS="--fail-on never --seed 0")
    assert done.returncode == 0, done.stdout
