"""Data for the hooks, and jobs of several processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch.utils.data import TensorDataset

JOBS = Path(__file__).parent / "jobs"
# Spawned workers inherit the path and find there what was pickled here.
sys.path.insert(0, str(JOBS))

from hook_data import COUNT, QUICK, make_tensors  # noqa: E402

TIMEOUT_SECONDS = 240.0
"""Far more than a job takes on a busy machine: only a job that hangs meets it."""

Finished = subprocess.CompletedProcess[str]
RunJob = Callable[..., list[Finished]]


@pytest.fixture
def tensors() -> TensorDataset:
    return make_tensors()


@pytest.fixture
def kept(tensors: TensorDataset, own_cache: Path) -> list[int]:
    """The indices of the samples that a scan of `tensors` does not flag; the scan is in the cache afterwards."""
    from vbdguard.scanner import scan

    flagged = {int(entry.key) for entry in scan(tensors, QUICK).flagged}
    assert 0 < len(flagged) < COUNT
    return sorted(set(range(COUNT)) - flagged)


@pytest.fixture
def run_job(tmp_path: Path) -> RunJob:
    """A function that runs a script of `jobs/` as so many processes of one job, and returns how they ended."""

    def run(script: str, *args: str, processes: int = 2, **environment: str) -> list[Finished]:
        shared = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "WORLD_SIZE": str(processes),
            "LOCAL_WORLD_SIZE": str(processes),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(_free_port()),
            **environment,
        }
        command = [sys.executable, str(JOBS / script), *args]
        running = [
            subprocess.Popen(
                command,
                env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                cwd=tmp_path,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in range(processes)
        ]
        try:
            ended = [process.communicate(timeout=TIMEOUT_SECONDS) for process in running]
        finally:
            for process in running:
                process.kill()
        return [Finished(command, process.returncode, *texts) for process, texts in zip(running, ended, strict=True)]

    return run


@pytest.fixture
def read_all() -> Callable[[list[Finished]], list[Any]]:
    """A function that returns what each process printed as JSON in its last line; fails where one failed."""

    def read(finished: list[Finished]) -> list[Any]:
        for process in finished:
            assert process.returncode == 0, process.stderr
        return [json.loads(process.stdout.splitlines()[-1]) for process in finished]

    return read


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
