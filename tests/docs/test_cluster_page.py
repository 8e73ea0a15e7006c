"""What the page on clusters gives to Slurm and Kubernetes runs here as it would there, one job after the other."""

from __future__ import annotations

import os
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
def run(known_data: Callable[..., ScanReport], tmp_path: Path) -> Callable[..., None]:
    """Run a script of the page on the reader's own data, where it names others; his cache is that of the test."""
    known_data("reader/shards")

    def script(text: str, **environ: str) -> None:
        here = {
            "s3://bucket/train/": "shards/",
            "/data/train/": "shards/",
            "--image-size 96": "",
            "--jobs 8": "--jobs 1",
            "/32": "/2",
            "/scratch/$USER": str(tmp_path),
            "--partial /parts": f"--partial {tmp_path}/parts",
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
        assert done.returncode == 0, done.stderr

    return script


def merged(folder: Path) -> int:
    files = [str(path) for path in sorted(folder.iterdir())]
    assert len(files) == 2
    return CliRunner().invoke(main, ["merge", *files, "-q"]).exit_code


def test_the_slurm_script_reads_its_share(run: Callable[..., None], tmp_path: Path) -> None:
    for task in (1, 2):
        run((CI / "slurm_read.sh").read_text(), SLURM_ARRAY_TASK_ID=str(task))
    assert merged(tmp_path / "parts") == 0


def test_the_kubernetes_job_reads_its_share(run: Callable[..., None], tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()  # the volume
    job = yaml.safe_load((CI / "kubernetes.yaml").read_text())
    spec = job["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    assert container["command"] == ["sh", "-c"]
    assert f"/{spec['completions']} " in container["args"][0]
    assert spec["completionMode"] == "Indexed"  # or there is no index to read
    for index in (0, 1):
        run(container["args"][0], JOB_COMPLETION_INDEX=str(index))
    assert merged(tmp_path / "parts") == 0
