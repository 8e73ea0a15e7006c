"""Which of a job's processes this is, and how they come to one verdict.

A scan may take hours, longer than the timeouts of a training job's own barriers, and processes on unlike machines
need not come to the very same findings. So one process scans and sends its report to all. They meet in a
group of their own (gloo: it notices at once when a process dies), and look at the clock while they wait.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from vbdguard.errors import VBDGuardError

if TYPE_CHECKING:
    import torch

_RANK_VARIABLES = ("RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "LOCAL_RANK")
"""Where torchrun, Slurm and MPI say which process this is, before torch.distributed is set up."""
_GLANCE_SECONDS = 0.05


def job_rank() -> int:
    """Return this process's rank in the job; 0 in a job of one process."""
    from torch import distributed

    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank()
    for name in _RANK_VARIABLES:
        if (value := os.environ.get(name, "")).isdigit():
            return int(value)
    return 0


def can_talk() -> bool:
    """Return whether there are several processes that torch.distributed has connected."""
    from torch import distributed

    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


@contextmanager
def conversation(patience: timedelta) -> Iterator[Conversation]:
    """Yield a group of all the job's processes; every one of them must come here.

    Args:
        patience: how long a process waits for another.
    """
    from torch import distributed

    rank = distributed.get_rank()
    try:
        group = distributed.new_group(backend="gloo", timeout=patience)
    except RuntimeError as error:
        raise VBDGuardError(
            f"rank {rank} waited {patience} for all {distributed.get_world_size()} processes of the job to guard their "
            f"data; every one must call this, at the same place ({_first_line(error)})"
        ) from error
    try:
        yield Conversation(group, rank, patience)
    finally:
        distributed.destroy_process_group(group)


@dataclass(frozen=True, slots=True)
class Conversation:
    """What the processes of a job say to each other."""

    group: Any
    rank: int
    patience: timedelta

    def from_first(self, text: str) -> str:
        """Return rank 0's text, on every rank.

        Raises:
            VBDGuardError: if rank 0 died or kept the others waiting too long.
        """
        import torch

        body = (
            torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8) if text else torch.empty(0, dtype=torch.uint8)
        )
        size = torch.tensor([len(body)])
        self._broadcast(size)
        if self.rank != 0:
            body = torch.empty(int(size), dtype=torch.uint8)
        if len(body):
            self._broadcast(body)
        return bytes(body.numpy()).decode()

    def failures(self, has_failed: bool) -> list[int]:
        """Return the ranks that have failed, on every rank.

        Raises:
            VBDGuardError: if a process died or kept the others waiting too long.
        """
        import torch
        from torch import distributed

        flags = torch.zeros(distributed.get_world_size(), dtype=torch.int64)
        flags[self.rank] = int(has_failed)
        self._wait(distributed.all_reduce(flags, group=self.group, async_op=True), "the other processes")
        return [int(rank) for rank in flags.nonzero().flatten()]

    def _broadcast(self, tensor: torch.Tensor) -> None:
        from torch import distributed

        self._wait(
            distributed.broadcast(tensor, src=0, group=self.group, async_op=True),
            "rank 0" if self.rank else "the others",
        )

    def _wait(self, work: Any, whom: str) -> None:
        # Asking now and then, instead of one long wait in C++, lets Ctrl-C through.
        deadline = time.monotonic() + self.patience.total_seconds()
        while not work.is_completed() and time.monotonic() < deadline:
            time.sleep(_GLANCE_SECONDS)
        cause = _error_of(work) if work.is_completed() else None
        # gloo's own clock runs as long as ours; either may be the first by a moment.
        if cause is not None and time.monotonic() < deadline - 1:
            raise VBDGuardError(
                f"rank {self.rank} waited for {whom}, and a process ended before the data were guarded; its own "
                f"output says why ({_first_line(cause)})"
            ) from cause
        if cause is not None or not work.is_completed():
            raise VBDGuardError(
                f"rank {self.rank} waited {self.patience} for {whom}, still scanning or stuck; look at what they "
                "say, or pass a longer patience="
            ) from cause


def _error_of(work: Any) -> RuntimeError | None:
    try:
        work.wait()
    except RuntimeError as error:
        return error
    return None


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
