"""Processes on this machine: the default engine.

A shard may crash a decoder, exhaust the memory or hang; in a process of its own it costs itself and nothing else.
"""

from __future__ import annotations

import multiprocessing
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from multiprocessing.connection import wait
from typing import Any, Generic, Self

from vbdguard.engines.base import Item, Result, WorkerDied
from vbdguard.engines.limits import Limits
from vbdguard.engines.worker import Worker
from vbdguard.errors import VBDGuardError

MAX_DEATHS = 2
"""A worker may die of what another process did (the memory ran out); the same item twice is the item's fault."""


def map_shards(
    function: Callable[[Item], Result], items: Sequence[Item], *, jobs: int
) -> Generator[tuple[int, Result | WorkerDied], None, None]:
    """Yield what `Workers(jobs).map(function, items)` yields; the workers end with it."""
    with Workers(jobs) as workers, closing(workers.map(function, items)) as results:
        yield from results


class Workers:
    """Some processes, for as long as the `with` block lasts; leaving it ends them at once, whatever they are at.

    Args:
        jobs: how many at most; with 1 and no limits, or inside a process that may have no children, all is done here.
        limits: what one item may cost; None sets no bounds. Work that is done here has none.
    """

    def __init__(self, jobs: int, limits: Limits | None = None) -> None:
        self._jobs = jobs
        self._limits = limits
        self._workers: list[Worker] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._end(self._workers)

    def map(
        self, function: Callable[[Item], Result], items: Sequence[Item]
    ) -> Generator[tuple[int, Result | WorkerDied], None, None]:
        """Yield (index, function(item)) for every item, in the order of completion.

        Closing the iterator, as an exception in the caller does, ends the workers that are busy.

        Args:
            function: importable by name, as the items are picklable, unless everything stays in this process.
            items: one unit of work each.

        Raises:
            VBDGuardError: as the function raises it.
            RuntimeError: if the function raises anything else in a worker; the message holds the worker's traceback.
        """
        jobs = min(self._jobs, len(items))
        if (jobs <= 1 and self._limits is None) or multiprocessing.current_process().daemon:
            yield from ((index, function(item)) for index, item in enumerate(items))
            return
        work = _Work(function, items)
        try:
            while work.pending or work.busy:
                self._staff(work, jobs)
                answers: list[tuple[int, Result | WorkerDied]] = [*self._collect(work)]
                self._staff(work, jobs)  # nobody is idle while the caller looks at the answers
                yield from answers
        finally:
            self._end(work.busy)

    def _staff(self, work: _Work[Any, Any], jobs: int) -> None:
        """Give every worker that is idle an item, and start some where there are too few."""
        wanted = min(len(work.pending), jobs - len(work.busy))
        idle = [worker for worker in self._workers if worker not in work.busy][:wanted]
        # Start all before any is fed: a large item waits in the pipe until its worker is up.
        fresh = [Worker(self._limits) for _ in range(wanted - len(idle))]
        self._workers += fresh
        for worker in (*idle, *fresh):
            work.give(worker)

    def _collect(self, work: _Work[Item, Result]) -> Iterator[tuple[int, Result | WorkerDied]]:
        """Wait for the next answers or the next deadline, and yield what there is to say."""
        deadline = min(worker.deadline for worker in work.busy)
        timeout = None if deadline == float("inf") else max(0.0, deadline - time.monotonic())
        ready = wait([worker.connection for worker in work.busy], timeout)
        for worker in list(work.busy):
            if worker.connection in ready:
                yield from self._answer(work, worker)
            elif worker.deadline <= time.monotonic():
                yield worker.item, self._overdue(work, worker)

    def _answer(self, work: _Work[Item, Result], worker: Worker) -> Iterator[tuple[int, Result | WorkerDied]]:
        try:
            is_result, value = worker.connection.recv()
        except (EOFError, OSError):
            self._lose(work, worker)
            if work.may_try_again(worker.item):
                return
            how = f"the process that read it died {MAX_DEATHS} times, at last by {worker.last_word()}"
            yield worker.item, WorkerDied(how)
            return
        work.busy.remove(worker)
        if isinstance(value, VBDGuardError) and not is_result:
            raise value
        if not is_result:
            raise RuntimeError(f"a worker failed:\n{value}")
        yield worker.item, value

    def _overdue(self, work: _Work[Any, Any], worker: Worker) -> WorkerDied:
        self._lose(work, worker)
        seconds = 0.0 if self._limits is None else self._limits.seconds
        return WorkerDied(f"the process that read it gave no answer within {seconds:g} seconds", "timeout")

    def _lose(self, work: _Work[Any, Any], worker: Worker) -> None:
        work.busy.remove(worker)
        self._end([worker])

    def _end(self, doomed: Sequence[Worker]) -> None:
        """End workers together: the time that it takes does not grow with their number."""
        doomed = list(doomed)
        for worker in doomed:
            worker.kill()
        for worker in doomed:
            worker.join()
            self._workers.remove(worker)


class _Work(Generic[Item, Result]):
    """One map: which items wait, which workers are at one, and which items have cost a worker its life."""

    def __init__(self, function: Callable[[Item], Result], items: Sequence[Item]) -> None:
        self._function = function
        self._items = items
        self._deaths = [0] * len(items)
        self.pending = deque(range(len(items)))
        self.busy: list[Worker] = []

    def give(self, worker: Worker) -> None:
        """Hand a worker the next item."""
        index = self.pending.popleft()
        self.busy.append(worker)
        worker.give(self._function, index, self._items[index])

    def may_try_again(self, index: int) -> bool:
        """Count one more death at an item; whether it gets another try, behind the others."""
        self._deaths[index] += 1
        if self._deaths[index] >= MAX_DEATHS:
            return False
        self.pending.append(index)
        return True
