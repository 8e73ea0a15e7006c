"""The same number of steps on every rank, so that unequal shards cannot hang a distributed training.

A guard takes different numbers of samples from different ranks. DistributedDataParallel waits in each backward pass
for all ranks, so the first rank that runs out leaves the others waiting for ever. Three ways out:

    equal_steps(loader)     all ranks stop as soon as one of them has nothing left: exact epochs at the price of the
                            surplus batches of the other ranks
    resampled=True with     wds.WebDataset(..., resampled=True).with_epoch(n): every rank draws n samples, with
    with_epoch              replacement; nothing to agree on, but no exact epochs
    torch's Join            `with Join([ddp_model]):` lets ranks that have run out answer for the others; sees
                            every sample, but knows only DDP's own communication, not that of other wrappers
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Generic, TypeVar

import torch
import torch.distributed as dist

from vbdguard.errors import VBDGuardError

Batch = TypeVar("Batch")

_FAILED, _ENDED, _HAS_ONE = 0, 1, 2


class EqualSteps(Generic[Batch]):
    """A loader that ends on all ranks after the same number of batches; see `equal_steps`."""

    def __init__(self, loader: Iterable[Batch], group: dist.ProcessGroup | None) -> None:
        self.loader = loader
        self.group = group

    def __iter__(self) -> Iterator[Batch]:
        if not (dist.is_available() and dist.is_initialized()):
            yield from self.loader
            return
        batches = iter(self.loader)
        turn = _Turn(batches, self.group)
        while turn.all_have_one():
            # Asked while the step on this batch runs. A failure waits its turn too: the others are in that step.
            upcoming = _Turn(batches, self.group)
            yield from turn.batch
            turn = upcoming


class _Turn(Generic[Batch]):
    """A batch that was fetched, and the question on its way whether the other ranks have one too."""

    def __init__(self, batches: Iterator[Batch], group: dist.ProcessGroup | None) -> None:
        self.batch: tuple[Batch, ...] = ()
        self._error: Exception | None = None
        state = _HAS_ONE
        try:
            self.batch = (next(batches),)
        except StopIteration:
            state = _ENDED
        except Exception as error:  # whatever it is, the other ranks must not wait for this one
            self._error, state = error, _FAILED
        self._state = torch.tensor(state, dtype=torch.int32, device=_device(group))
        self._work: Any = dist.all_reduce(self._state, op=dist.ReduceOp.MIN, group=group, async_op=True)

    def all_have_one(self) -> bool:
        """Wait for the other ranks and return whether each of them has a batch.

        Raises:
            VBDGuardError: if a rank has failed; on that rank its own error.
        """
        self._work.wait()
        if self._error is not None:
            raise self._error
        state = int(self._state.item())
        if state == _FAILED:
            raise VBDGuardError("another rank could not get its next batch; its own error says why")
        return state == _HAS_ONE


def equal_steps(loader: Iterable[Batch], *, group: dist.ProcessGroup | None = None) -> EqualSteps[Batch]:
    """Return an iterable over a loader's batches that stops on all ranks together.

    One small all_reduce per step, a step ahead of the training. If one rank's loader raises, such as on a sample that
    no scan has seen, the others raise too instead of waiting. Without a process group it is the loader.

    Args:
        loader: this rank's DataLoader, or any iterable; asked for one batch more than it hands out.
        group: the ranks that train together; None takes all. With NCCL, a group of its own that was made with
            `dist.new_group(backend="gloo")` keeps the question out of the GPU's queue.

    Raises:
        VBDGuardError: while iterating, if another rank's loader has failed.
    """
    return EqualSteps(loader, group)


def _device(group: dist.ProcessGroup | None) -> torch.device:
    backend = dist.get_backend(group)
    return torch.device("cuda", torch.cuda.current_device()) if "nccl" in backend else torch.device("cpu")
