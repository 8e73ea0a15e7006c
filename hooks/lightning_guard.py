"""The guard in Lightning.

    trainer = Trainer(callbacks=[GuardCallback()])     # whatever fit() is then given: loaders, a DataModule, a module
    trainer.fit(model, guard_datamodule(datamodule))   # or a DataModule alone, scanned in its prepare_data

The callback replaces what fit() trains on while it runs, and puts it back. Lightning makes loaders anew for its own
samplers (DistributedSampler); what the guard gives are plain DataLoaders, so that this keeps the guard.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from vbdguard.errors import VBDGuardError
from vbdguard.guards.counts import DropCounts
from vbdguard.guards.options import GuardOptions
from vbdguard.report import ScanReport

from .inspecting import counts_of, is_guarded, report_of
from .pretrain import Write, guard_alone, guard_in_job, to_stderr

try:
    from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
    from lightning.pytorch.utilities import CombinedLoader
except ModuleNotFoundError as error:
    raise ImportError('the guard in Lightning needs it: pip install "vbdguard[lightning]"') from error

GuardOne = Callable[[Any], Any]


class GuardCallback(Callback):
    """Guards the training data of every `Trainer.fit`; validation and test data stay as they are.

    The scan runs when fit() starts, on rank 0; the other processes wait and take its report. When fit() ends, or
    fails, everything is as it was before.

    Args:
        quiet: say nothing on stderr.
        **options: those of `vbdguard.guard`: on_poison, on_unscanned, raw, config, report, cache_dir.
    """

    def __init__(self, *, quiet: bool = False, **options: Any) -> None:
        super().__init__()
        self._options = GuardOptions(**options)
        self._write: Write | None = None if quiet else to_stderr
        self._guarded: Any = None
        self._undo: Callable[[], None] | None = None

    @property
    def report(self) -> ScanReport:
        """What the scan of the last fit() found; where fit() started its own processes, only they know."""
        return report_of(self._last_guarded())

    @property
    def counts(self) -> DropCounts:
        """What the last fit() was spared."""
        return counts_of(self._last_guarded())

    def _last_guarded(self) -> Any:
        if self._guarded is None:
            raise VBDGuardError("no fit() has been guarded in this process yet; call trainer.fit first")
        return self._guarded

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:  # noqa: ARG002  # Lightning's
        """Replace what fit() takes its training batches from."""
        if stage != "fit":
            return
        source = getattr(trainer.fit_loop, "_data_source", None)
        if source is None or not hasattr(source, "instance"):
            raise VBDGuardError(
                "this version of Lightning keeps its training data where the callback does not find them; "
                "pass guarded data to fit() instead: trainer.fit(model, vbdguard.guard(loader))"
            )
        owner = source.instance
        if isinstance(owner, (LightningModule, LightningDataModule)):
            make_loaders = owner.train_dataloader
            self._undo = _replace(owner, "train_dataloader", lambda: self._guard(make_loaders()))
        else:
            self._undo = _replace(source, "instance", self._guard(owner))

    def on_train_start(self, trainer: Trainer, *_: Any) -> None:
        """Make sure that nothing took the guard off on the way from the loader to the loop.

        Raises:
            VBDGuardError: if something did.
        """
        if not all(map(is_guarded, _leaves(trainer.train_dataloader))):
            raise VBDGuardError(
                "fit() is about to train on a loader that is not the guarded one; another callback or the "
                "LightningModule replaces it: guard it there, with vbdguard.guard(loader)"
            )

    def teardown(self, *_: Any, **__: Any) -> None:
        """Put back what `setup` replaced."""
        self._restore()

    def on_exception(self, *_: Any, **__: Any) -> None:
        """Put back what `setup` replaced."""
        self._restore()

    def _restore(self) -> None:
        if self._undo is not None:
            self._undo()
            self._undo = None

    def _guard(self, loaders: Any) -> Any:
        def guard_one(loader: Any) -> Any:
            self._guarded = guard_in_job(loader, self._options, write=self._write)
            return self._guarded

        return _map_leaves(guard_one, loaders)


def guard_datamodule(datamodule: LightningDataModule, *, quiet: bool = False, **options: Any) -> LightningDataModule:
    """Return a copy of a DataModule, of a subclass of its class, whose training data are guarded.

    `prepare_data`, which Lightning runs in one process per machine, scans what a second copy's `setup("fit")` and
    `train_dataloader()` give; `train_dataloader`, in every process, finds that verdict in the cache. Data that
    `setup` draws anew in each process (an unseeded random_split) are different data, and refused.

    Args:
        datamodule: any; not altered.
        quiet: say nothing on stderr.
        **options: those of `vbdguard.guard`.
    """
    return _guarded_copy(type(datamodule), vars(datamodule), GuardOptions(**options), None if quiet else to_stderr)


def _guarded_copy(
    kind: type[LightningDataModule], state: dict[str, Any], options: GuardOptions, write: Write | None
) -> LightningDataModule:
    """Return a DataModule of `kind` in a state, guarded; what a pickle of one calls."""
    # `LightningDataModule.from_datasets` sets it on the instance, where it would hide the method below.
    of_instance = {name: value for name, value in state.items() if name == "train_dataloader"}

    class Guarded(kind):  # type: ignore[misc, valid-type]  # a subclass, so that it stays what the user's code expects
        def prepare_data(self) -> None:
            super().prepare_data()
            # What prepare_data sets on its object, other processes do not have: it works on a copy.
            scout = copy.copy(self)
            scout.setup("fit")
            _map_leaves(lambda loader: guard_alone(loader, options, write=write), scout._unguarded_loaders())

        def train_dataloader(self) -> Any:
            return _map_leaves(lambda loader: guard_in_job(loader, options, write=None), self._unguarded_loaders())

        def _unguarded_loaders(self) -> Any:
            return of_instance["train_dataloader"]() if of_instance else super().train_dataloader()

        def __reduce__(self) -> tuple[Any, ...]:
            return _guarded_copy, (kind, vars(self) | of_instance, options, write)

    Guarded.__name__ = Guarded.__qualname__ = f"Guarded{kind.__name__}"
    guarded: LightningDataModule = Guarded.__new__(Guarded)
    guarded.__dict__.update({name: value for name, value in state.items() if name not in of_instance})
    return guarded


def _replace(owner: Any, name: str, value: Any) -> Callable[[], None]:
    """Set an attribute, and return what undoes it."""
    is_own, old = name in vars(owner), vars(owner).get(name)
    setattr(owner, name, value)
    return lambda: setattr(owner, name, old) if is_own else delattr(owner, name)


def _map_leaves(guard_one: GuardOne, loaders: Any) -> Any:
    """Return loaders in the same arrangement, each guarded."""
    if isinstance(loaders, CombinedLoader):
        return CombinedLoader(_map_leaves(guard_one, loaders.iterables), loaders._mode)
    if isinstance(loaders, dict):
        return {name: _map_leaves(guard_one, loader) for name, loader in loaders.items()}
    if isinstance(loaders, (list, tuple)):
        return [_map_leaves(guard_one, loader) for loader in loaders]
    return guard_one(loaders)


def _leaves(loaders: Any) -> list[Any]:
    found: list[Any] = []
    _map_leaves(found.append, loaders)
    return found
