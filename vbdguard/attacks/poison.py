"""BadNets and Blended attacks on image-classification data (paper, section 3.1 and Eq. 1).

The published experiments draw the poisoned samples uniformly at random over the whole set, so samples of the target
class may be drawn too: they keep their label and still carry the trigger.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vbdguard.attacks.triggers import Mode, Size, Trigger, frame_trigger
from vbdguard.errors import ConfigError
from vbdguard.wording import count_words

_ROUNDING_SLACK = 1e-6
"""Added before the floor: 0.9 * 255 + 0.1 * 255 is 254.99999999999997 in floating point and 255 by Eq. 1."""


@dataclass(frozen=True, slots=True, eq=False)
class PoisonPlan:
    """Which samples an attack takes, and what it calls them."""

    indices: NDArray[np.int64]
    """int64 (P,), ascending positions of the poisoned samples."""
    new_labels: NDArray[np.int64]
    """int64 (P,), the labels that the attack gives them."""


@dataclass(frozen=True, slots=True, eq=False)
class Poisoned:
    """A poisoned copy of a data set, with the truth about it."""

    images: NDArray[np.uint8]
    """uint8 (N, H, W, 3)."""
    labels: NDArray[np.int64]
    """int64 (N,), with the attack's labels."""
    is_poisoned: NDArray[np.bool_]
    """bool (N,)."""
    original_labels: NDArray[np.int64]
    """int64 (N,), before the attack."""


def blend(images: NDArray[np.uint8], trigger: Trigger, blend_factor: float) -> NDArray[np.uint8]:
    """Return copies of the images with the trigger blended in (Eq. 1), floored to whole grey levels.

    Args:
        images: uint8 (N, H, W, 3), 0 to 255.
        trigger: pattern and mask of the same height and width.
        blend_factor: weight of the pattern inside the mask, above 0 and at most 1; 1 is BadNets.

    Raises:
        ConfigError: if the blend factor is out of range.
        ValueError: if images are not uint8 (N, H, W, 3) of the trigger's size.
    """
    check_blend_factor(blend_factor)
    if images.dtype != np.uint8 or images.shape[1:] != trigger.pattern.shape:
        height, width = trigger.size
        raise ValueError(f"expected uint8 images (N, {height}, {width}, 3), got {images.dtype} {images.shape}")
    blended = images.copy()
    pattern = trigger.pattern[trigger.mask]
    blended[:, trigger.mask] = _blend_table(blend_factor)[pattern, images[:, trigger.mask]]
    return blended


def plan_poisoning(
    labels: ArrayLike,
    *,
    ratio: float,
    mode: Mode = "all-to-one",
    target: int = 0,
    seed: int = 0,
) -> PoisonPlan:
    """Return which samples to poison, drawn uniformly at random over the whole set, and their new labels.

    Args:
        labels: ints (N,), any numbers; at least two classes.
        ratio: share of the whole set, above 0 and at most 1; it must come to at least one sample.
        mode: `all-to-one` gives all of them the target's label, `all-to-all` the label of the next class.
        target: the label to give, one of the set's own; unused in all-to-all attacks.
        seed: seed of the draw.

    Raises:
        ConfigError: if a setting is out of range or does not fit the labels.
    """
    given = np.asarray(labels, dtype=np.int64)
    classes = np.unique(given)
    count = _checked_count(given, classes, ratio=ratio, mode=mode, target=target)
    drawn = np.random.default_rng(seed).permutation(len(given))[:count]
    indices = np.sort(drawn).astype(np.int64)
    if mode == "all-to-one":
        return PoisonPlan(indices, np.full(count, target, dtype=np.int64))
    ranks = np.searchsorted(classes, given[indices])
    return PoisonPlan(indices, classes[(ranks + 1) % len(classes)])


def poison_arrays(
    images: NDArray[np.uint8],
    labels: ArrayLike,
    trigger: str | Trigger,
    *,
    blend_factor: float = 1.0,
    ratio: float = 0.1,
    mode: Mode = "all-to-one",
    target: int = 0,
    position: Size | None = None,
    seed: int = 0,
) -> Poisoned:
    """Return a poisoned copy of a data set that lies in memory.

    Args:
        images: uint8 (N, H, W, 3), at least 16 pixels a side.
        labels: ints (N,).
        trigger: the name of a built-in trigger, or one's own (see `frame_trigger` for how it is placed).
        blend_factor: weight of the pattern, above 0 and at most 1; 1 is BadNets.
        ratio: share of the whole set to poison.
        mode: `all-to-one` or `all-to-all`.
        target: label of an all-to-one attack.
        position: top and left of the trigger; None means the bottom-right corner, or in an all-to-all attack a place
            for each original class.
        seed: seed of the draw.

    Raises:
        ConfigError: if a setting is out of range or does not fit the data.
        ValueError: if there are not as many labels as images.
    """
    original = np.asarray(labels, dtype=np.int64)
    if len(original) != len(images):
        raise ValueError(f"expected as many labels as images ({len(images)}), got {len(original)}")
    plan = plan_poisoning(original, ratio=ratio, mode=mode, target=target, seed=seed)
    size = (images.shape[1], images.shape[2])
    poisoned = images.copy()
    for rank, members in _placements(original, plan.indices, mode):
        framed = frame_trigger(trigger, size, mode=mode, position=position, rank=rank)
        poisoned[members] = blend(images[members], framed, blend_factor)
    new_labels = original.copy()
    new_labels[plan.indices] = plan.new_labels
    is_poisoned = np.zeros(len(original), dtype=np.bool_)
    is_poisoned[plan.indices] = True
    return Poisoned(poisoned, new_labels, is_poisoned, original)


def _placements(
    labels: NDArray[np.int64], indices: NDArray[np.int64], mode: Mode
) -> list[tuple[int, NDArray[np.int64]]]:
    """Return the poisoned samples in groups that share one place: (rank of the original class, indices)."""
    if mode == "all-to-one":
        return [(0, indices)]
    ranks = np.searchsorted(np.unique(labels), labels[indices])
    return [(int(rank), indices[ranks == rank]) for rank in np.unique(ranks)]


@lru_cache(maxsize=16)
def _blend_table(blend_factor: float) -> NDArray[np.uint8]:
    """Return uint8 (256, 256): Eq. 1 for every pair of (pattern value, image value)."""
    values = np.arange(256, dtype=np.float64)
    exact = blend_factor * values[:, None] + (1 - blend_factor) * values[None, :]
    return np.floor(exact + _ROUNDING_SLACK).astype(np.uint8)


def check_blend_factor(blend_factor: float) -> None:
    """Check that a blend factor is above 0 and at most 1.

    Raises:
        ConfigError: if it is not.
    """
    if not 0 < blend_factor <= 1:
        raise ConfigError(f"blend factor must be above 0 and at most 1, got {blend_factor}")


def _checked_count(
    labels: NDArray[np.int64], classes: NDArray[np.int64], *, ratio: float, mode: Mode, target: int
) -> int:
    if mode not in get_args(Mode):
        raise ConfigError(f"mode must be one of {', '.join(get_args(Mode))}, got {mode!r}")
    if not 0 < ratio <= 1:
        raise ConfigError(f"ratio must be above 0 and at most 1, got {ratio}")
    if labels.ndim != 1:
        raise ConfigError(f"an attack needs one label for each sample (N,), got labels of shape {labels.shape}")
    if len(classes) < 2:
        raise ConfigError(
            f"an attack needs samples of at least two classes, got {count_words(len(labels), 'sample')} of "
            f"{count_words(len(classes), 'class', 'classes')}; name the whole data set"
        )
    if mode == "all-to-one" and target not in classes:
        known = ", ".join(str(label) for label in classes[:20]) + (", ..." if len(classes) > 20 else "")
        raise ConfigError(f"target must be one of the set's labels ({known}), got {target}")
    count = round(ratio * len(labels))
    if count == 0:
        raise ConfigError(f"ratio {ratio} of {len(labels)} samples is less than one; choose a larger ratio")
    return count
