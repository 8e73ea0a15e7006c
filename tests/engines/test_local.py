"""The process pool: every item once, whatever happens to the workers."""

from __future__ import annotations

import operator
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from types import ModuleType

import pytest
from patience import patience

from vbdguard.engines.base import WorkerDied
from vbdguard.engines.limits import Limits
from vbdguard.engines.local import Workers, map_shards
from vbdguard.errors import ReadError

FUNCTIONS = """
import os, signal, sys, time
from pathlib import Path
from vbdguard.errors import ReadError

def square(x): return x * x
def process(x): time.sleep(0.05); return os.getpid()
def loaded(x): return [name for name in ("torch", "torchvision", "webdataset") if name in sys.modules]
def handler(x): return signal.getsignal(signal.SIGINT) is signal.SIG_IGN
def die(x):
    if x == 1: os.kill(os.getpid(), signal.SIGKILL)
    return x
def die_once(folder):
    try: (Path(folder) / "died").touch(exist_ok=False)
    except FileExistsError: return "second time"
    os._exit(3)
def refuse(x): raise ReadError("reason", f"detail {x}")
def fail(x): raise ZeroDivisionError(f"item {x}")
def size(x): return len(x)
def sleep(x): Path(x).touch(); time.sleep(60)
def hang(x):
    while x == 1: pass
    return x
def grow(megabytes):
    try: return len(bytearray(megabytes << 20))
    except MemoryError: return "no memory"
"""


@pytest.fixture
def functions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Return a module that workers can import: they are handed this process's sys.path."""
    name = f"functions_{os.getpid()}_{abs(hash(tmp_path))}"
    (tmp_path / f"{name}.py").write_text(FUNCTIONS)
    monkeypatch.syspath_prepend(str(tmp_path))
    return __import__(name)


def test_one_job_stays_in_this_process(functions: ModuleType) -> None:
    assert list(map_shards(functions.process, [1, 2], jobs=1)) == [(0, os.getpid()), (1, os.getpid())]
    assert list(map_shards(functions.process, [1], jobs=8)) == [(0, os.getpid())]
    assert list(map_shards(functions.process, [], jobs=8)) == []


def test_every_item_comes_back_once_with_its_index(functions: ModuleType) -> None:
    done = list(map_shards(functions.square, list(range(20)), jobs=3))
    assert sorted(done) == [(n, n * n) for n in range(20)]


def test_work_is_spread_over_other_processes(functions: ModuleType) -> None:
    processes = {result for _, result in map_shards(functions.process, list(range(8)), jobs=2)}
    assert len(processes) == 2
    assert os.getpid() not in processes


def test_workers_load_no_torch_and_leave_ctrl_c_to_the_parent(functions: ModuleType) -> None:
    assert [result for _, result in map_shards(functions.loaded, [1, 2], jobs=2)] == [[], []]
    assert [result for _, result in map_shards(functions.handler, [1, 2], jobs=2)] == [True, True]


def test_items_larger_than_a_pipe_go_through(functions: ModuleType) -> None:
    items = [b"x" * 3_000_000, b"y" * 2_000_000, b""]
    assert sorted(map_shards(functions.size, items, jobs=2)) == [(0, 3_000_000), (1, 2_000_000), (2, 0)]


def test_worker_that_always_dies_costs_its_item_alone(functions: ModuleType) -> None:
    done = dict(map_shards(functions.die, list(range(6)), jobs=2))
    assert {index: result for index, result in done.items() if index != 1} == {n: n for n in (0, 2, 3, 4, 5)}
    assert isinstance(done[1], WorkerDied)
    assert "died 2 times, at last by signal 9 (out of memory?)" in done[1].detail


def test_worker_that_dies_once_is_forgiven(functions: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "died").touch()
    done = dict(map_shards(functions.die_once, [str(tmp_path), str(tmp_path / "other")], jobs=2))
    assert done == {0: "second time", 1: "second time"}


def test_errors_come_back_as_they_are(functions: ModuleType) -> None:
    with pytest.raises(ReadError, match=r"reason: detail \d"):
        list(map_shards(functions.refuse, [1, 2], jobs=2))
    with pytest.raises(RuntimeError, match="ZeroDivisionError: item"):
        list(map_shards(functions.fail, [1, 2], jobs=2))


def test_closing_ends_busy_workers_within_two_seconds(functions: ModuleType, tmp_path: Path) -> None:
    import multiprocessing

    marks = [tmp_path / "a", tmp_path / "b"]
    interrupted: list[float] = []

    def interrupt() -> None:
        while not all(mark.exists() for mark in marks):
            time.sleep(0.02)
        interrupted.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        list(map_shards(functions.sleep, [str(mark) for mark in marks], jobs=2))
    thread.join()
    assert time.monotonic() - interrupted[0] < patience(2)
    assert multiprocessing.active_children() == []


def test_main_is_back_after_the_workers_started() -> None:
    main = sys.modules["__main__"]
    assert sorted(map_shards(operator.neg, [1, 2], jobs=2)) == [(0, -1), (1, -2)]
    assert sys.modules["__main__"] is main


def test_script_without_a_main_guard_runs_once(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(
            """
            import operator
            from vbdguard.engines.local import map_shards
            print("the script runs", flush=True)
            print(sorted(map_shards(operator.neg, [1, 2, 3], jobs=2)), flush=True)
            """
        )
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    assert done.stdout.splitlines() == ["the script runs", "[(0, -1), (1, -2), (2, -3)]"]


def test_that_script_would_fail_with_plain_multiprocessing(tmp_path: Path) -> None:
    """The companion of the test above: the trap is real."""
    script = tmp_path / "script.py"
    script.write_text(
        "import multiprocessing, operator\n"
        "print(multiprocessing.get_context('spawn').Pool(2).map(operator.neg, [1, 2]))\n"
    )
    process = subprocess.Popen([sys.executable, script], stderr=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stderr is not None
    try:
        assert any("bootstrapping phase" in line for line in process.stderr)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.stderr.close()
        process.wait()


FEW = Limits(seconds=60, memory_bytes=512 << 20)


def test_an_item_that_hangs_costs_itself_and_the_time_it_was_given(functions: ModuleType) -> None:
    begun = time.monotonic()
    with Workers(2, Limits(seconds=3, memory_bytes=1 << 30)) as workers:
        done = dict(workers.map(functions.hang, list(range(6))))
    assert {index: result for index, result in done.items() if index != 1} == {n: n for n in (0, 2, 3, 4, 5)}
    assert done[1] == WorkerDied("the process that read it gave no answer within 3 seconds", "timeout")
    assert time.monotonic() - begun < 30


@pytest.mark.skipif(sys.platform != "linux", reason="where the system enforces RLIMIT_DATA")
def test_an_item_that_needs_more_memory_than_it_may_have_gets_an_error_there(functions: ModuleType) -> None:
    with Workers(2, FEW) as workers:
        done = dict(workers.map(functions.grow, [1, 2000, 2]))
    assert done == {0: 1 << 20, 1: "no memory", 2: 2 << 20}


def test_with_limits_a_single_item_has_a_process_of_its_own_too(functions: ModuleType) -> None:
    with Workers(1, FEW) as workers:
        [(_, process)] = workers.map(functions.process, [1])
    assert process != os.getpid()


def test_the_same_processes_serve_one_map_after_another(functions: ModuleType) -> None:
    with Workers(2) as workers:
        first = {result for _, result in workers.map(functions.process, list(range(6)))}
        assert dict(workers.map(functions.square, [1, 2])) == {0: 1, 1: 4}
        second = {result for _, result in workers.map(functions.process, list(range(6)))}
    assert first == second
    assert len(first) == 2


def test_a_map_that_was_given_up_leaves_no_answer_to_the_next(functions: ModuleType, tmp_path: Path) -> None:
    with Workers(2) as workers:
        given_up = workers.map(functions.square, list(range(50)))
        next(given_up)
        given_up.close()
        assert dict(workers.map(functions.size, ["a", "bb"])) == {0: 1, 1: 2}


def group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


PARENT = """
import sys
import functions
from vbdguard.engines.local import map_shards
list(map_shards(functions.sleep, sys.argv[1:], jobs=2))
"""


def test_workers_end_with_a_parent_that_was_killed_though_they_are_busy(tmp_path: Path) -> None:
    (tmp_path / "functions.py").write_text(FUNCTIONS)
    marks = [tmp_path / "a", tmp_path / "b"]
    environ = {**os.environ, "PYTHONPATH": str(tmp_path)}
    process = subprocess.Popen([sys.executable, "-c", PARENT, *marks], start_new_session=True, env=environ)
    while not all(mark.exists() for mark in marks):
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()  # the parent alone
    process.wait()
    deadline = time.monotonic() + 2
    while group_lives(process.pid):
        assert time.monotonic() < deadline
        time.sleep(0.02)
