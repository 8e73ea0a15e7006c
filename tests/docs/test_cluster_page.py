"""What the page on clusters gives to Slurm and Kubernetes runs here as it would there, one job after the other."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from vbdguard.cli.main import main
from vbdguard.report import ScanReport

CI = Path(__file__).resolve().parent.parent.parent / "docs" / "ci"


@pytest.fixture
def run(
    known_data: Callable[..., ScanReport], keep_merged_report: Callable[[ScanReport, Path], None], tmp_path: Path
) -> Callable[..., None]:
    """Run a script of the page on the reader's own data, where it names others; his cache is that of the test."""
    keep_merged_report(known_data("reader/shards"), tmp_path / "reader" / "shards")

    def script(text: str, *, code: int = 0, **environ: str) -> None:
        here = {
            "s3://bucket/train/": "shards/",
            "/data/train/": "shards/",
            "--image-size 96": "",
            "--jobs 8": "--jobs 1",
            "/32": "/2",
            "/scratch/$USER": str(tmp_path),
            "part=/parts": f"part={tmp_path}/parts",
        }
        for there, mine in here.items():
            text = text.replace(there, mine)
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", "-c", text],
            cwd=tmp_path / "reader",
            env={**os.environ, **environ, "PATH": path},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, done.stderr

    return script


def merged(folder: Path) -> int:
    files = [str(path) for path in sorted(folder.iterdir())]
    assert len(files) == 2
    return CliRunner().invoke(main, ["merge", *files, "-q"]).exit_code


def test_the_slurm_script_reads_its_share(run: Callable[..., None], tmp_path: Path) -> None:
    for task in (1, 2):
        run((CI / "slurm_read.sh").read_text(), SLURM_ARRAY_TASK_ID=str(task))
    assert merged(tmp_path / "parts") == 0


@pytest.fixture
def kubernetes_script(tmp_path: Path) -> str:
    (tmp_path / "parts").mkdir()  # the volume
    job = yaml.safe_load((CI / "kubernetes.yaml").read_text())
    spec = job["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    assert container["command"] == ["sh", "-c"]
    assert f"/{spec['completions']} " in container["args"][0]
    assert spec["completionMode"] == "Indexed"  # or there is no index to read
    return str(container["args"][0])


def test_the_kubernetes_job_reads_its_share(run: Callable[..., None], kubernetes_script: str, tmp_path: Path) -> None:
    for index in (0, 1):
        run(kubernetes_script, JOB_COMPLETION_INDEX=str(index))
    assert merged(tmp_path / "parts") == 0


def test_a_kubernetes_job_succeeds_by_its_file_alone(
    run: Callable[..., None], kubernetes_script: str, tmp_path: Path
) -> None:
    part = tmp_path / "parts" / "0"
    (tmp_path / "reader" / "shards" / "train-000000.tar").write_bytes(b"no tar")
    run(kubernetes_script, JOB_COMPLETION_INDEX="0")
    assert part.is_file()
    shutil.rmtree(tmp_path / "reader" / "shards")
    run(kubernetes_script, code=2, JOB_COMPLETION_INDEX="0")
    assert not part.exists()


def test_jobs_have_the_memory_that_their_processes_may_take() -> None:
    job = yaml.safe_load((CI / "kubernetes.yaml").read_text())
    (container,) = job["spec"]["template"]["spec"]["containers"]
    slurm = (CI / "slurm_read.sh").read_text()
    asked = re.search(r"--mem=(\S+)", slurm)
    assert asked is not None
    for script, room in ((slurm, asked[1]), (container["args"][0], container["resources"]["limits"]["memory"])):
        numbers = re.search(r"--jobs (\d+) --worker-memory (\d+)", script)
        assert numbers is not None
        assert int(numbers[1]) * int(numbers[2]) < int(room.rstrip("Gi")) * 1024
