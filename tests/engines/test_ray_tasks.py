"""Ray as an engine: what the local one promises, and workers that go."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from vbdguard.engines.base import WorkerDied
from vbdguard.engines.choice import open_engine
from vbdguard.engines.limits import Limits
from vbdguard.engines.local import Workers
from vbdguard.engines.ray_tasks import MAX_RETRIES, RayTasks
from vbdguard.errors import ConfigError, ReadError

LIMITS = Limits(seconds=60, memory_bytes=512 << 20)


def test_every_item_comes_back_once_with_its_index(functions: ModuleType) -> None:
    with RayTasks(2, LIMITS) as ray:
        assert sorted(ray.map(functions.square, list(range(20)))) == [(n, n * n) for n in range(20)]
        assert list(ray.map(functions.square, [])) == []
        images = [np.ones((2, 1000), np.uint8), np.zeros((3, 3), np.uint8)]
        assert sorted(ray.map(functions.count, images)) == [(0, 2000), (1, 0)]


def test_without_limits_the_work_is_done_in_rays_own_workers(functions: ModuleType) -> None:
    with RayTasks(None) as ray:
        processes = {result for _, result in ray.map(functions.process, list(range(8)))}
    assert 1 <= len(processes) <= 2
    assert os.getpid() not in processes


def test_an_item_that_always_dies_costs_itself_in_the_words_of_the_local_engine(functions: ModuleType) -> None:
    with RayTasks(2, LIMITS) as ray:
        done = dict(ray.map(functions.die, list(range(5))))
    with Workers(2, LIMITS) as workers:
        assert dict(workers.map(functions.die, list(range(5)))) == done
    assert isinstance(done[1], WorkerDied)
    assert {index: result for index, result in done.items() if index != 1} == {n: n for n in (0, 2, 3, 4)}


def test_an_item_that_hangs_costs_itself(functions: ModuleType) -> None:
    with RayTasks(2, Limits(seconds=10, memory_bytes=1 << 30)) as ray:
        done = dict(ray.map(functions.hang, list(range(3))))
    assert done[1] == WorkerDied("the process that read it gave no answer within 10 seconds", "timeout")
    assert (done[0], done[2]) == (0, 2)


def test_ray_puts_another_in_the_place_of_a_worker_that_is_killed(functions: ModuleType, tmp_path: Path) -> None:
    with RayTasks(2, LIMITS) as ray:
        assert dict(ray.map(functions.at_last, [(str(tmp_path / "a"), 2), (str(tmp_path / "b"), 0)])) == {
            0: "at last",
            1: "at last",
        }
    assert (tmp_path / "a").stat().st_size == 3


def test_an_item_that_every_worker_is_lost_at_is_given_up(functions: ModuleType, tmp_path: Path) -> None:
    with RayTasks(2, LIMITS) as ray:
        done = dict(ray.map(functions.at_last, [(str(tmp_path / "a"), 99), (str(tmp_path / "b"), 0)]))
    assert isinstance(done[0], WorkerDied)
    assert f"Ray lost the worker that read it {1 + MAX_RETRIES} times" in done[0].detail
    assert (tmp_path / "a").stat().st_size == 1 + MAX_RETRIES
    assert done[1] == "at last"


@pytest.mark.parametrize("limits", [None, LIMITS], ids=["free", "limited"])
def test_work_is_done_where_the_scan_was_started_and_imports_nothing_from_there(
    functions: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limits: Limits | None
) -> None:
    """A folder of data may hold anything, also a numpy.py; its shards may be named from within it."""
    monkeypatch.chdir(tmp_path)
    with RayTasks(1, limits) as ray:
        [(_, place)] = ray.map(functions.place, [1])
    assert isinstance(place, tuple)
    folder, path = place
    assert folder == str(tmp_path)
    assert not {"", ".", folder} & set(path)


@pytest.mark.parametrize("limits", [None, LIMITS], ids=["free", "limited"])
def test_errors_come_back_as_they_are(functions: ModuleType, limits: Limits | None) -> None:
    with RayTasks(2, limits) as ray:
        with pytest.raises(ReadError, match=r"reason: detail \d"):
            list(ray.map(functions.refuse, [1, 2]))
        with pytest.raises(RuntimeError, match="ZeroDivisionError: item"):
            list(ray.map(functions.fail, [1, 2]))


def test_nodes_without_what_the_scan_needs_are_told_of(functions: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "only_here.py").write_text("def one(x): return 1\n")
    sys.path.insert(0, str(tmp_path))
    try:
        import only_here  # type: ignore[import-not-found]

        with RayTasks(2) as ray, pytest.raises(ConfigError, match=r"No module named 'only_here'; install vbdguard"):
            list(ray.map(only_here.one, [1]))
    finally:
        sys.path.remove(str(tmp_path))


def test_another_version_on_the_nodes_is_refused(functions: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vbdguard.engines.ray_tasks.build", lambda: "9.9")
    with RayTasks(2, LIMITS) as ray, pytest.raises(ConfigError, match=r"expected vbdguard 9\.9, .* on every node"):
        list(ray.map(functions.square, [1]))


def test_closing_ends_what_is_at_work(functions: ModuleType, tmp_path: Path) -> None:
    marks = [tmp_path / "a", tmp_path / "b"]
    with RayTasks(3, LIMITS) as ray:
        results = ray.map(functions.sleep, [str(tmp_path / "c")])
        results.close()  # before it has begun
        given_up = ray.map(functions.first_or_sleep, ["", *map(str, marks)])
        assert next(given_up) == (0, "")
        while not all(mark.exists() and mark.read_text() for mark in marks):
            time.sleep(0.02)
        given_up.close()
    deadline = time.monotonic() + 5
    while any(lives(int(mark.read_text())) for mark in marks):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def test_the_cluster_that_was_there_goes_on_afterwards(functions: ModuleType, ray_cluster: ModuleType) -> None:
    with RayTasks(1) as ray:
        list(ray.map(functions.square, [1]))
    assert ray_cluster.is_initialized()


def test_the_name_chooses_the_engine() -> None:
    assert isinstance(open_engine("ray", jobs=None, limits=None), RayTasks)
    assert isinstance(open_engine("local", jobs=None, limits=None), Workers)


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install 'vbdguard\[ray\]'"), RayTasks(1):
        pass


SCRIPT = """
import os, signal, sys
import vbdguard_engine_functions as functions
from vbdguard.engines.limits import Limits
from vbdguard.engines.ray_tasks import RayTasks
before = signal.getsignal(signal.SIGTERM)
with RayTasks(2, Limits(seconds=100, memory_bytes=1 << 30)) as ray:
    [(_, (folder, path))] = ray.map(functions.place, [1])
    print(signal.getsignal(signal.SIGTERM) == before, folder == os.getcwd(), folder in path, flush=True)
    list(ray.map(functions.sleep, sys.argv[1:]))
"""


def processes_of(folder: str) -> list[str]:
    """Whatever Ray runs for a cluster says where that has its folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if folder in (entry / "cmdline").read_bytes().decode(errors="replace"):
                found.append(entry.name)
        except OSError:
            continue
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="finds processes through /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_cluster_of_our_own_ends_with_the_scan(functions: ModuleType, tmp_path: Path, number: signal.Signals) -> None:
    """Also where no cleaning up is possible."""
    temporary = Path(tempfile.mkdtemp(prefix="v", dir="/tmp"))  # sockets need a short path
    modules = str(Path(functions.__file__ or "").parent)
    mark = tmp_path / "a"
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(mark)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
        env={**os.environ, "TMPDIR": str(temporary), "PYTHONPATH": modules},
        cwd=tmp_path,
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "True True False\n"
        while not (mark.exists() and mark.read_text()):
            assert process.poll() is None
            time.sleep(0.05)
        [folder] = temporary.glob("vbd-ray-*")
        assert processes_of(str(folder))
        process.send_signal(number)
        process.wait(timeout=30)
        deadline = time.monotonic() + 10
        while processes_of(str(folder)) or lives(int(mark.read_text())):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert number == signal.SIGKILL or not folder.exists()
    finally:
        process.kill()
        process.communicate()
        shutil.rmtree(temporary, ignore_errors=True)
