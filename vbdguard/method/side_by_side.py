"""Independent small computations, one per core."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

from vbdguard.method.device import give_back_freed
from vbdguard.progress import Progress, Silent

Item = TypeVar("Item")
Result = TypeVar("Result")


def side_by_side(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    device: torch.device,
    progress: Progress | None = None,
) -> list[Result]:
    """Return the function's result for each item, in order; one step of progress each.

    On a processor, as many items as torch has threads are worked on at the same time with one torch thread each:
    small computations gain nothing from more, results do not depend on the number of cores, and torch's threads,
    which wait in busy loops, slow nobody else down. Elsewhere they come one after the other.
    """
    listener = progress or Silent()
    results: list[Result] = []
    workers = torch.get_num_threads() if device.type == "cpu" else 1
    with _one_thread_each(device):
        pool = ThreadPoolExecutor(workers, initializer=_use_one_thread if device.type == "cpu" else None)
        try:
            for result in _in_order(pool, function, items):
                results.append(result)
                listener.advance()
        finally:
            # On Ctrl-C nobody waits for the pieces that are at work.
            pool.shutdown(wait=sys.exc_info()[0] is None, cancel_futures=True)
            give_back_freed()
    return results


def _in_order(pool: ThreadPoolExecutor, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    for future in [pool.submit(function, item) for item in items]:
        yield future.result()


@contextmanager
def _one_thread_each(device: torch.device) -> Iterator[None]:
    before = torch.get_num_threads()
    try:
        if device.type == "cpu":
            torch.set_num_threads(1)
        yield
    finally:
        torch.set_num_threads(before)


def _use_one_thread() -> None:
    torch.set_num_threads(1)
