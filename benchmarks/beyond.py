"""Attacks beyond the paper's: triggers that move, two at once, and those that leave nothing static behind."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates, zoom

from vbdguard.attacks.poison import Poisoned, blend, plan_poisoning
from vbdguard.attacks.triggers import Trigger

_WARP_GRID, _WARP_STRENGTH = 4, 1.0
"""Control points a side, and mean displacement in pixels."""
_NOISE = 16
"""Grey levels by which a sample's own pattern lifts or lowers each pixel."""


def stamp_variants(
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    variants: Sequence[Trigger],
    *,
    blend_factor: float,
    ratio: float,
    target: int,
    seed: int,
) -> Poisoned:
    """Return an all-to-one attack whose samples each carry one of several triggers, drawn by the seed.

    Args:
        images: uint8 (N, H, W, 3).
        labels: int64 (N,).
        variants: triggers of the images' size.
        blend_factor: as in Eq. 1.
        ratio: share of the whole set to poison.
        target: the class that the attacker wants.
        seed: of both draws.
    """
    chosen = plan_poisoning(labels, ratio=ratio, target=target, seed=seed).indices
    which = np.random.default_rng([seed, 1]).integers(len(variants), size=len(chosen))
    poisoned = images.copy()
    for i, variant in enumerate(variants):
        members = chosen[which == i]
        poisoned[members] = blend(images[members], variant, blend_factor)
    return _all_to_one(poisoned, labels, chosen, target)


def nearby(trigger: Trigger) -> list[Trigger]:
    """Return the trigger at its place and one pixel off in all eight directions; what leaves the image is cut off."""
    return [_moved(trigger, down, right) for down in (-1, 0, 1) for right in (-1, 0, 1)]


def both(first: Poisoned, second: Poisoned) -> Poisoned:
    """Return what two attackers leave of one data set; where both took a sample, the first has it."""
    own = first.is_poisoned
    return Poisoned(
        np.where(own[:, None, None, None], first.images, second.images),
        np.where(own, first.labels, second.labels),
        own | second.is_poisoned,
        first.original_labels,
    )


def clean_label(
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    trigger: Trigger,
    *,
    blend_factor: float,
    ratio: float,
    target: int,
    seed: int,
) -> Poisoned:
    """Return an attack that stamps samples of the target class only, whose labels stay right (Turner et al., 2019).

    Raises:
        ValueError: if the class has fewer samples than the share of the whole set.
    """
    members = np.flatnonzero(labels == target)
    count = round(ratio * len(labels))
    if not 0 < count <= len(members):
        raise ValueError(f"expected a ratio that makes 1 to {len(members)} samples of class {target}, got {count}")
    chosen = np.sort(np.random.default_rng(seed).permutation(members)[:count])
    poisoned = images.copy()
    poisoned[chosen] = blend(images[chosen], trigger, blend_factor)
    return _all_to_one(poisoned, labels, chosen, target)


def without_pattern(
    name: str, images: NDArray[np.uint8], labels: NDArray[np.int64], *, ratio: float, target: int, seed: int
) -> Poisoned:
    """Return an all-to-one attack with one of `PATTERNLESS`, which leave no pattern that repeats across images."""
    chosen = plan_poisoning(labels, ratio=ratio, target=target, seed=seed).indices
    poisoned = images.copy()
    poisoned[chosen] = PATTERNLESS[name](images[chosen], np.random.default_rng([seed, 1]))
    return _all_to_one(poisoned, labels, chosen, target)


def _warp(images: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return the images bent by one smooth field of displacements (WaNet, Nguyen and Tran, 2021, section 3.2)."""
    _, height, width, _ = images.shape
    control = rng.uniform(-1, 1, (2, _WARP_GRID, _WARP_GRID))
    field = np.stack([zoom(part, (height / _WARP_GRID, width / _WARP_GRID), order=3) for part in control])
    field *= _WARP_STRENGTH / np.abs(field).mean()
    rows, columns = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    places = [rows + field[0], columns + field[1]]
    warped = np.empty_like(images)
    for i, image in enumerate(images):
        for channel in range(3):
            warped[i, ..., channel] = map_coordinates(image[..., channel], places, order=1, mode="nearest")
    return warped


def _own_noise(images: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return the images each with a pattern of its own, as sample-specific attacks add (Li et al., 2021)."""
    noise: NDArray[np.int64] = _NOISE * rng.choice([-1, 1], images.shape)
    return (images + noise).clip(0, 255).astype(np.uint8)


PATTERNLESS: dict[str, Callable[[NDArray[np.uint8], np.random.Generator], NDArray[np.uint8]]] = {
    "warp": _warp,
    "own_noise": _own_noise,
}


def _moved(trigger: Trigger, down: int, right: int) -> Trigger:
    pattern, mask = np.zeros_like(trigger.pattern), np.zeros_like(trigger.mask)
    height, width = mask.shape
    to = np.s_[max(0, down) : height + min(0, down), max(0, right) : width + min(0, right)]
    of = np.s_[max(0, -down) : height - max(0, down), max(0, -right) : width - max(0, right)]
    pattern[to], mask[to] = trigger.pattern[of], trigger.mask[of]
    return Trigger(trigger.name, pattern, mask)


def _all_to_one(
    poisoned: NDArray[np.uint8], labels: NDArray[np.int64], chosen: NDArray[np.int64], target: int
) -> Poisoned:
    new_labels, is_poisoned = labels.copy(), np.zeros(len(labels), dtype=np.bool_)
    new_labels[chosen], is_poisoned[chosen] = target, True
    return Poisoned(poisoned, new_labels, is_poisoned, labels)
