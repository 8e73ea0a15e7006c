"""A DataLoader around guarded data, with every setting of the one that the user made.

The result is torch's own class: accelerate and Lightning take a loader apart and build it anew, and would lose
whatever a subclass adds. Nothing of the user's is altered, and no random number is drawn.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.utils.data import DataLoader, IterableDataset

from vbdguard.errors import SourceError
from vbdguard.guards.dataset import GuardedDataset
from vbdguard.guards.guarded import is_guarded
from vbdguard.guards.hugging_face import is_hugging_face, selected
from vbdguard.guards.kinds import is_exactly
from vbdguard.guards.options import GuardOptions
from vbdguard.guards.samplers import Kept, rebuild_batch_sampler, rebuild_sampler

CARRIED = (
    "num_workers",
    "collate_fn",
    "pin_memory",
    "timeout",
    "worker_init_fn",
    "multiprocessing_context",
    "generator",
    "prefetch_factor",
    "persistent_workers",
    "pin_memory_device",
    "in_order",
)
"""Settings that a loader keeps as attributes of the same name, and that do not depend on what it loads."""
REBUILT = ("dataset", "batch_size", "shuffle", "sampler", "batch_sampler", "drop_last")
"""Settings that `guard_loader` works out."""
STATEFUL_CARRIED = ("snapshot_every_n_steps",)
"""What torchdata's StatefulDataLoader has besides."""


def guard_loader(
    loader: DataLoader[Any], options: GuardOptions, *, guard_stream: Callable[[Any, GuardOptions], Any]
) -> DataLoader[Any]:
    """Return a loader with the same settings on guarded data; one whose dataset is guarded comes back as it is.

    Args:
        loader: torch's DataLoader or torchdata's StatefulDataLoader; not altered.
        options: of the guard.
        guard_stream: guards an IterableDataset inside.

    Raises:
        SourceError: if the loader is of another class, its sampler is not known, or no batch is left.
        PoisonFoundError: under on_poison="raise".
        UnscannedSampleError: under on_unscanned="raise".
    """
    if is_guarded(loader.dataset):
        return loader
    carried = _carried_settings(loader)
    make: type[DataLoader[Any]] = type(loader)
    if isinstance(loader.dataset, IterableDataset):
        stream = guard_stream(loader.dataset, options)
        return make(stream, batch_size=loader.batch_size, drop_last=loader.drop_last, **carried)
    kept = _kept_of(loader.dataset, options)
    guarded = make(kept.data, **_sampling_settings(loader, kept), **carried)
    if len(loader) and not len(guarded):
        raise SourceError(
            f"{type(loader.dataset).__name__}: of the {len(loader)} batches that the loader had, none is left: its "
            "sampler draws flagged samples only, or drop_last leaves out the one incomplete batch"
        )
    return guarded


def _carried_settings(loader: DataLoader[Any]) -> dict[str, Any]:
    if type(loader) is DataLoader:
        return {name: getattr(loader, name) for name in CARRIED}
    if is_exactly(loader, "torchdata", "StatefulDataLoader"):
        return {name: getattr(loader, name) for name in (*CARRIED, *STATEFUL_CARRIED)}
    name = type(loader).__name__
    raise SourceError(
        f"expected torch's DataLoader or torchdata's StatefulDataLoader itself, got its subclass {name}, which may do "
        f"more than its settings say; guard what goes into it: {name}(vbdguard.guard(dataset), ...), and where a "
        "framework makes it (accelerate's prepare, timm's create_loader), guard before that"
    )


def _kept_of(dataset: Any, options: GuardOptions) -> Kept:
    guarded = GuardedDataset(dataset, **options.for_datasets())
    if len(guarded) == 0:
        raise SourceError(f"{type(dataset).__name__}: nothing is left to train on; look at the report")
    data = selected(guarded) if is_hugging_face(dataset) else guarded
    return Kept(data=data, indices=guarded.kept_indices, length=len(dataset))


def _sampling_settings(loader: DataLoader[Any], kept: Kept) -> dict[str, Any]:
    if loader.batch_size is None and loader.batch_sampler is not None:
        return {"batch_sampler": rebuild_batch_sampler(loader.batch_sampler, kept)}
    # With a batch size, the loader's batch sampler is torch's own and is made again from these.
    return {
        "batch_size": loader.batch_size,
        "drop_last": loader.drop_last,
        "sampler": rebuild_sampler(loader.sampler, kept),
    }
