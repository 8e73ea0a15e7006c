"""Scans as processes that are killed, stopped, doubled or denied their cache: the right answer, or a clear error."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from patience import patience
from PIL import Image

from vbdguard.sources.base import RawSample
from vbdguard.sources.writing import write_shards

SHARDS, PER_SHARD = 6, 12


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards that take seconds to read and little to judge: large images of few bytes, scanned small."""
    folder = tmp_path_factory.mktemp("slow") / "data"
    rng = np.random.default_rng(0)
    samples = []
    for number in range(SHARDS * PER_SHARD):
        buffer = io.BytesIO()
        tiles = Image.fromarray((rng.integers(80, 180, 3) + rng.integers(-3, 3, (8, 8, 3))).astype(np.uint8))
        tiles.resize((1200, 1200), Image.Resampling.NEAREST).save(buffer, "PNG", compress_level=1)
        samples.append(RawSample(f"s{number:03d}", buffer.getvalue(), number % 3))
    write_shards(samples, folder, per_shard=PER_SHARD)
    return folder


Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(data: Path) -> Start:
    """Start a scan in a session of its own, as a shell starts a job."""

    def scan(cache: Path, *options: str, **environ: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "vbdguard.cli.main", "scan", str(data), "--cache-dir", str(cache)]
        return subprocess.Popen(
            [*command, "--image-size", "8", "--jobs", "2", "--format", "json", "--quiet", *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={**os.environ, **environ},
        )

    return scan


def timeless(text: str) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(text)
    del body["timings"]
    return body


def finish(process: subprocess.Popen[str]) -> dict[str, Any]:
    out, error = process.communicate(timeout=120)
    assert process.returncode in (0, 1), error
    return timeless(out)


@pytest.fixture(scope="module")
def expected(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The report of a scan that nobody disturbs."""
    return finish(start.__wrapped__(data)(tmp_path_factory.mktemp("undisturbed")))  # type: ignore[attr-defined]


def segments(cache: Path) -> dict[str, int]:
    """Whole segments and when they were written."""
    found = (cache / "segments").glob("[!.]*/samples.json")
    return {path.parent.name: path.stat().st_mtime_ns for path in found}


def wait_for(process: subprocess.Popen[str], cache: Path, count: int) -> None:
    """Wait until so many segments are whole."""
    deadline = time.monotonic() + 60
    while len(segments(cache)) < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def require_end(group: int, deadline: float) -> None:
    """Fail where any process of a group outlives the deadline."""
    while True:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        assert time.monotonic() < deadline, "a process lives on"
        time.sleep(0.02)


@pytest.mark.parametrize("whole", [1, SHARDS], ids=["reading", "judging"])
def test_a_killed_scan_goes_on_to_the_same_report_and_decodes_no_whole_shard_again(
    start: Start, expected: dict[str, Any], tmp_path: Path, whole: int
) -> None:
    process = start(tmp_path)
    wait_for(process, tmp_path, whole)
    process.kill()
    process.communicate()
    require_end(process.pid, time.monotonic() + patience(2))
    before = segments(tmp_path)
    assert len(before) >= whole
    assert finish(start(tmp_path)) == expected
    after = segments(tmp_path)
    assert len(after) == SHARDS
    assert {name: after[name] for name in before} == before


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
@pytest.mark.parametrize("whole", [1, SHARDS], ids=["reading", "judging"])
def test_a_signal_stops_a_scan_within_two_seconds_and_leaves_a_whole_cache(
    start: Start, expected: dict[str, Any], tmp_path: Path, number: signal.Signals, code: int, whole: int
) -> None:
    process = start(tmp_path)
    wait_for(process, tmp_path, whole)
    begun = time.monotonic()
    process.send_signal(number)
    out, error = process.communicate(timeout=30)
    deadline = begun + patience(2)
    assert time.monotonic() < deadline
    require_end(process.pid, deadline)
    assert (process.returncode, out) == (code, "")
    assert error.split() in (["vbdguard:", "interrupted"], ["vbdguard:", "stopped", "by", number.name])
    assert not list((tmp_path / "segments").glob(".*"))
    assert not list((tmp_path / "reports").glob("*.json"))


def test_a_worker_that_is_killed_once_costs_nothing(start: Start, expected: dict[str, Any], tmp_path: Path) -> None:
    process = start(tmp_path)
    wait_for(process, tmp_path, 1)
    workers = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    if not workers.exists():
        process.kill()
        process.communicate()
        pytest.skip("finds workers through /proc")
    children = [int(child) for child in workers.read_text().split()]
    reading = [child for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]
    os.kill(reading[0], signal.SIGKILL)
    assert finish(process) == expected


def test_two_scans_at_once_give_one_computation_and_two_right_answers(
    start: Start, expected: dict[str, Any], tmp_path: Path
) -> None:
    both = [start(tmp_path), start(tmp_path)]
    answers = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0] or [process.returncode for process in both] == [1, 1]
    assert [timeless(out) for out, _ in answers] == [expected, expected]
    has_computed = ["suspects" in json.loads(out)["timings"] for out, _ in answers]
    assert sorted(has_computed) == [False, True]
    assert len(segments(tmp_path)) == SHARDS
    assert not list((tmp_path / "segments").glob(".*"))


def test_a_killed_scan_does_not_hold_up_one_that_waits_for_it(
    start: Start, expected: dict[str, Any], tmp_path: Path
) -> None:
    first, second = start(tmp_path), start(tmp_path)
    wait_for(first, tmp_path, SHARDS)
    first.kill()
    first.communicate()
    assert finish(second) == expected


@pytest.mark.parametrize("place", ["no such home", "a file", "read-only"])
def test_a_cache_that_cannot_be_written_is_an_error_that_says_what_to_do(
    data: Path, tmp_path: Path, place: str
) -> None:
    if place == "read-only":
        if os.geteuid() == 0:
            pytest.skip("permissions do not bind root")
        tmp_path.chmod(0o500)
    home = {"no such home": Path("/proc/nobody"), "a file": tmp_path / "file", "read-only": tmp_path}[place]
    (tmp_path / "file").write_text("") if place == "a file" else None
    environ = {**os.environ, "HOME": str(home), "XDG_CACHE_HOME": "", "VBDGUARD_CACHE": ""}
    command = [sys.executable, "-m", "vbdguard.cli.main", "scan", str(data), "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, env=environ, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "the cache cannot be used" in done.stderr
    assert "--cache-dir" in done.stderr
    assert "--no-cache" in done.stderr
