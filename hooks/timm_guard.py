"""The guard in timm: between create_dataset and create_loader.

    dataset = guard_timm(create_dataset("", root="photos/train"))
    loader = create_loader(dataset, input_size=(3, 224, 224), batch_size=64, is_training=True)

`create_loader` sets `dataset.transform`, which reaches the dataset through the guard; the scan has seen the images
before, as they are. timm hands out another sample for one that it cannot read: through the guard never
a flagged one.
"""

from __future__ import annotations

from typing import Any

from vbdguard.errors import SourceError
from vbdguard.guards.kinds import is_a
from vbdguard.guards.options import GuardOptions

from .pretrain import guard_in_job, to_stderr

try:
    from timm.data.dataset import AugMixDataset, IterableImageDataset
except ModuleNotFoundError as error:
    raise ImportError('the guard in timm needs it: pip install "vbdguard[timm]"') from error


def guard_timm(dataset: Any, *, quiet: bool = False, **options: Any) -> Any:
    """Return a timm dataset guarded, ready for `create_loader`.

    Args:
        dataset: what `create_dataset` gave, or any map-style dataset; not altered by the guard.
        quiet: say nothing on stderr.
        **options: those of `vbdguard.guard`: on_poison, on_unscanned, raw, config, report, cache_dir.

    Raises:
        SourceError: for what cannot be guarded at this place; the message says where it can.
        VBDGuardError: what `vbdguard.guard` raises.
    """
    if is_a(dataset, "torch", "DataLoader") or is_a(dataset, "timm", "PrefetchLoader"):
        raise SourceError(
            f"expected a dataset, got a {type(dataset).__name__}: guard what create_dataset gives, "
            "then call create_loader on it"
        )
    if isinstance(dataset, AugMixDataset):
        raise SourceError(
            "expected a dataset without augmentation, got an AugMixDataset: AugMixDataset(guard_timm(dataset), ...)"
        )
    if isinstance(dataset, IterableImageDataset):
        raise SourceError(
            "timm's streaming readers (wds, tfds) hand out decoded images, whose samples cannot be recognised: "
            "train on what `vbdguard clean SOURCE DEST` writes, or on vbdguard.guard(wds.WebDataset(...)) with a "
            "DataLoader of your own"
        )
    return guard_in_job(dataset, GuardOptions(**options), write=None if quiet else to_stderr)
