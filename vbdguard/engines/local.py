"""Processes on this machine: the default engine.

Workers are spawned, since a forked child of a process with threads or a GPU may hang. A spawned child imports the
script that started it, so `vbdguard.scan()` at the top of a script without a `__main__` guard would run that script
again in each worker; `__main__` is therefore hidden while workers start. They need nothing from it.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import sys
import threading
import traceback
import types
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, Generic, TypeVar

from vbdguard.errors import VBDGuardError

Item = TypeVar("Item")
Result = TypeVar("Result")

MAX_DEATHS = 2
"""A worker may die of what another process did (the memory ran out); the same item twice is the item's fault."""
_SECONDS_TO_STOP = 0.5
_STARTING = threading.Lock()


@dataclass(frozen=True, slots=True)
class WorkerDied:
    """What comes back for an item whose workers died."""

    detail: str


def map_shards(
    function: Callable[[Item], Result], items: Sequence[Item], *, jobs: int
) -> Generator[tuple[int, Result | WorkerDied], None, None]:
    """Yield (index, function(item)) for every item, in the order of completion.

    Closing the iterator, as an exception in the caller does, ends the workers within two seconds.

    Args:
        function: importable by name, as the items are picklable, unless everything stays in this process.
        items: one unit of work each.
        jobs: processes; with 1, or inside a process that may have no children, all runs here.

    Raises:
        VBDGuardError: as the function raises it.
        RuntimeError: if the function raises anything else in a worker; the message holds the worker's traceback.
    """
    jobs = min(jobs, len(items))
    if jobs <= 1 or multiprocessing.current_process().daemon:
        yield from ((index, function(item)) for index, item in enumerate(items))
        return
    pool = _Pool(function, items)
    try:
        yield from pool.run(jobs)
    finally:
        pool.stop()


class _Pool(Generic[Item, Result]):
    """One pipe per worker, so that it is always known which item a worker that died was at."""

    def __init__(self, function: Callable[[Item], Result], items: Sequence[Item]) -> None:
        self._function = function
        self._items = items
        self._pending = deque(range(len(items)))
        self._deaths = [0] * len(items)
        self._workers: list[_Worker] = []

    def run(self, jobs: int) -> Iterator[tuple[int, Result | WorkerDied]]:
        """Yield (index, result) until nothing is left to do."""
        while self._pending or self._workers:
            # Start all before any is fed: a large item waits in the pipe until its worker is up.
            fresh = [_Worker(self._function) for _ in range(min(len(self._pending), jobs - len(self._workers)))]
            self._workers += fresh
            for worker in fresh:
                self._feed(worker)
            for ready in wait([worker.connection for worker in self._workers]):
                worker = next(one for one in self._workers if one.connection is ready)
                yield from self._collect(worker)

    def stop(self) -> None:
        """End every worker, whatever it is at."""
        for worker in self._workers:
            worker.process.terminate()
        for worker in self._workers:
            worker.end()

    def _collect(self, worker: _Worker) -> Iterator[tuple[int, Result | WorkerDied]]:
        index = worker.item
        try:
            is_result, value = worker.connection.recv()
        except (EOFError, OSError):
            self._workers.remove(worker)
            worker.end()
            self._deaths[index] += 1
            if self._deaths[index] < MAX_DEATHS:
                self._pending.append(index)
            else:
                yield index, WorkerDied(f"the process that read it died {MAX_DEATHS} times, {worker.last_word()}")
            return
        if isinstance(value, VBDGuardError) and not is_result:
            raise value
        if not is_result:
            raise RuntimeError(f"a worker failed:\n{value}")
        self._feed(worker)
        yield index, value

    def _feed(self, worker: _Worker) -> None:
        """Hand the worker its next item, or let it go; a worker that is dead already shows at the next wait."""
        if not self._pending:
            self._workers.remove(worker)
            worker.end()
            return
        worker.item = self._pending.popleft()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            worker.connection.send(self._items[worker.item])


class _Worker:
    """A process and the pipe to it."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.item = -1
        self.process = context.Process(target=_serve, args=(theirs, function), daemon=True)
        with _hidden_main(), _blocked_interrupt():
            self.process.start()
        theirs.close()  # or the end of the pipe would not show when the worker dies

    def end(self) -> None:
        """Close the pipe, which an idle worker takes as its leave; do not wait long for a busy one."""
        self.connection.close()
        self.process.join(_SECONDS_TO_STOP)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()

    def last_word(self) -> str:
        """Say how the process ended."""
        code = self.process.exitcode
        if code is not None and code < 0:
            return f"at last by signal {-code}" + (" (out of memory?)" if -code == signal.SIGKILL else "")
        return f"at last with exit code {code}"


def _serve(connection: Connection, function: Callable[[Any], Any]) -> None:
    """Answer items until the pipe closes; Ctrl-C is the parent's to handle."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            item = connection.recv()
            try:
                answer = (True, function(item))
            except VBDGuardError as error:
                answer = (False, error)
            except Exception:
                answer = (False, traceback.format_exc())
            connection.send(answer)


@contextlib.contextmanager
def _hidden_main() -> Iterator[None]:
    """Show `multiprocessing.spawn.get_preparation_data` an empty `__main__`, which it does not import again."""
    with _STARTING:
        main = sys.modules["__main__"]
        sys.modules["__main__"] = types.ModuleType("__main__")
        try:
            yield
        finally:
            sys.modules["__main__"] = main


@contextlib.contextmanager
def _blocked_interrupt() -> Iterator[None]:
    """Let a child be born with SIGINT blocked: before it can ignore Ctrl-C, it would print a traceback."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    from multiprocessing import resource_tracker

    resource_tracker.ensure_running()  # starting it would unblock SIGINT again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
