"""What cannot be guarded as it is, and what to type instead."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vbdguard.errors import SourceError
from vbdguard.guards.kinds import is_a

_MODULE = (
    "makes its loaders later: vbdguard.hooks.lightning_guard.guard_datamodule(datamodule) goes around it, "
    "or guard the dataset in its setup()"
)


@dataclass(frozen=True, slots=True)
class Refusal:
    """One kind of target by its class, and why the guard cannot go around it."""

    package: str
    names: tuple[str, ...]
    why: str


REFUSALS = (
    Refusal(
        "webdataset",
        ("WebLoader",),
        "hands out decoded batches, whose bytes cannot be recognised any more: guard the dataset inside, "
        "wds.WebLoader(vbdguard.guard(dataset), ...)",
    ),
    Refusal(
        "ffcv",
        ("Loader",),
        "reads a .beton, whose images were decoded when it was written: take "
        "keep = vbdguard.GuardedDataset(the dataset it was written from).kept_indices and "
        "ffcv.loader.Loader(..., indices=keep)",
    ),
    Refusal(
        "timm",
        ("PrefetchLoader", "MultiEpochsDataLoader"),
        "was made by timm around a dataset: guard that, create_loader(vbdguard.guard(dataset), ...)",
    ),
    Refusal(
        "accelerate",
        ("DataLoaderAdapter",),
        "was made by accelerate around a loader: guard that, accelerator.prepare(vbdguard.guard(loader))",
    ),
    Refusal(
        "datasets.dataset_dict",
        ("DatasetDict", "IterableDatasetDict"),
        'holds several splits: splits["train"] = vbdguard.guard(splits["train"])',
    ),
    Refusal("lightning", ("LightningDataModule",), _MODULE),
    Refusal("pytorch_lightning", ("LightningDataModule",), _MODULE),
)


def refuse_known(target: Any) -> None:
    """Refuse what is known to be out of reach.

    Raises:
        SourceError: if `target` is a path or in the table above.
    """
    if isinstance(target, (str, Path)):
        raise refusal(
            target,
            "is a path, and what trains is a dataset: vbdguard.guard(wds.WebDataset(path)) or "
            "vbdguard.guard(torchvision.datasets.ImageFolder(path)); vbdguard.scan(path) only looks",
        )
    for entry in REFUSALS:
        if is_a(target, entry.package, *entry.names):
            raise refusal(target, entry.why)


def refuse_unknown(target: Any) -> SourceError:
    """Return the error about something that nothing here recognises."""
    return refusal(
        target, "has neither __len__ and __getitem__, nor is it a DataLoader, an IterableDataset or a WebDataset"
    )


def refusal(target: Any, why: str) -> SourceError:
    """Return the error that says why a target cannot be guarded; `why` goes on after "it"."""
    return SourceError(f"guard() cannot go around this {type(target).__name__}: it {why}")
