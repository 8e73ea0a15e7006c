"""What every engine is to the pipeline: a place that takes a function and items, and gives back what became of each.

    local       processes of this machine: `local`, the default
    ray         tasks of a Ray cluster: `ray_tasks`, extra `ray`

The pipeline does not know which one it has. An engine is a `with` block: leaving it ends whatever is still at work.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Protocol, Self, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

EngineName = Literal["local", "ray"]


@dataclass(frozen=True, slots=True)
class WorkerDied:
    """What comes back for an item whose workers died."""

    detail: str
    reason: str = "worker-died"
    """Or "timeout", where the worker was killed for the time that the item took."""


def processors() -> int:
    """Return how many processors of this machine this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Engine(Protocol):
    """Where the passes over shards run."""

    def __enter__(self) -> Self:
        """Return itself, ready to work."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the work that is left; on Ctrl-C at once, else in order."""

    def map(
        self, function: Callable[[Item], Result], items: Sequence[Item]
    ) -> Generator[tuple[int, Result | WorkerDied], None, None]:
        """Yield (index, function(item)) for every item, in the order of completion.

        An item whose workers die or take too long comes back as `WorkerDied`; the others go on.

        Raises:
            VBDGuardError: as the function raises it.
            RuntimeError: if the function raises anything else elsewhere; the message holds the traceback.
        """
