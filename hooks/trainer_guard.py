"""The guard in the Hugging Face Trainer.

    with guard_trainer(trainer):
        trainer.train()

`trainer.train_dataset` is guarded meanwhile, as what it is: a `datasets.Dataset` stays one (only from those the Trainer
drops the columns that its model does not take), a torch dataset becomes a GuardedDataset.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

from vbdguard.errors import SourceError, VBDGuardError
from vbdguard.guards.counts import DropCounts
from vbdguard.guards.kinds import is_a
from vbdguard.guards.options import GuardOptions
from vbdguard.report import ScanReport

from .inspecting import counts_of, is_guarded, report_of
from .pretrain import guard_in_job, to_stderr

try:
    from transformers import Trainer, TrainerCallback
except ModuleNotFoundError as error:
    raise ImportError('the guard in the Trainer needs transformers: pip install "vbdguard[transformers]"') from error


_NUMBERS = frozenset({"int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"})
"""Kinds of columns that can be labels."""


def guard_trainer(trainer: Trainer, *, quiet: bool = False, **options: Any) -> TrainerGuard:
    """Guard what a Trainer trains on, until the guard that comes back is undone or left as a context.

    The scan runs here, on rank 0; the other processes wait and take its report. Evaluation data stay as they are.

    Args:
        trainer: with a `train_dataset`; altered until the guard is undone.
        quiet: say nothing on stderr.
        **options: those of `vbdguard.guard`: on_poison, on_unscanned, raw, config, report, cache_dir.

    Raises:
        SourceError: if the Trainer has no training data.
        VBDGuardError: what `vbdguard.guard` raises.
    """
    if trainer.train_dataset is None:
        raise SourceError("expected a Trainer with a train_dataset, got one without: there is nothing to guard")
    guarded = guard_in_job(trainer.train_dataset, GuardOptions(**options), write=None if quiet else to_stderr)
    return TrainerGuard(trainer, guarded)


class TrainerGuard:
    """The guard around one Trainer's training data, as a context or until `undo`.

    Args:
        trainer: whose `train_dataset` is replaced.
        guarded: by what.
    """

    def __init__(self, trainer: Trainer, guarded: Any) -> None:
        self._trainer = trainer
        self._guarded = guarded
        self._plain = trainer.train_dataset
        self._watch = _Watch(guarded)
        self._is_active = True
        trainer.train_dataset = guarded
        trainer.add_callback(self._watch)

    @property
    def report(self) -> ScanReport:
        """What the scan found."""
        return report_of(self._guarded)

    @property
    def counts(self) -> DropCounts:
        """What the training was spared."""
        return counts_of(self._guarded)

    def undo(self) -> None:
        """Give the Trainer its data back; doing it twice does nothing more."""
        if not self._is_active:
            return
        self._is_active = False
        if self._trainer.train_dataset is self._guarded:
            self._trainer.train_dataset = self._plain
        self._trainer.remove_callback(self._watch)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.undo()


class _Watch(TrainerCallback):
    """Looks once, when training begins, whether the loader is over the guarded data.

    A subclass of Trainer may make its own loader from elsewhere; the guard would be silently off.
    """

    def __init__(self, guarded: Any) -> None:
        self._guarded = guarded

    def on_train_begin(self, *_: Any, **kwargs: Any) -> None:
        """Compare.

        Raises:
            VBDGuardError: if the loader holds other data.
        """
        loader = kwargs.get("train_dataloader")
        dataset = getattr(loader, "dataset", None)
        if is_guarded(loader) or self._is_same_table(dataset):
            return
        raise VBDGuardError(
            f"expected the Trainer to train on the guarded data, got a loader over {type(dataset).__name__}; "
            "where get_train_dataloader is overridden, return vbdguard.guard(loader) from it instead"
        )

    def _is_same_table(self, dataset: Any) -> bool:
        # Dropping columns makes a new object of the same rows. Unguarded data have more, or other labels.
        are_tables = is_a(dataset, "datasets", "Dataset") and is_a(self._guarded, "datasets", "Dataset")
        if not are_tables or len(dataset) != len(self._guarded):
            return False
        mine, theirs = self._guarded.with_format(None), dataset.with_format(None)
        numbers = (name for name, kind in theirs.features.items() if getattr(kind, "dtype", "") in _NUMBERS)
        return all(name in mine.features and mine[name][:] == theirs[name][:] for name in numbers)
