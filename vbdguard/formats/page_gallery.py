"""What the HTML page shows of the samples themselves: flagged images beside kept ones, and what they have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from vbdguard.escaping import printable
from vbdguard.formats.page_pictures import (
    Budget,
    Picture,
    data_address,
    is_whole,
    mean_difference,
    outline_of,
    variance_picture,
)
from vbdguard.formats.trigger_picture import Pixels, TriggerPicture
from vbdguard.ingest.stored_images import StoredImage, StoredImages
from vbdguard.report import ClassReport, FlaggedSample

_FOR_MEANS = 256
"""Images of each kind that means and variances are taken of."""
_PIXELS_FOR_MEANS = 10_000_000
"""Values of each kind at most, so that large images take neither gigabytes nor minutes."""


@dataclass(frozen=True, slots=True)
class GalleryImage:
    """One sample of a gallery."""

    picture: Picture
    detail: Picture | None
    """The place of the trigger, enlarged; None where the trigger is the whole image."""
    key: str
    score: float | None


@dataclass(frozen=True, slots=True)
class Gallery:
    """Flagged and kept samples of one class."""

    flagged: tuple[GalleryImage, ...]
    kept: tuple[GalleryImage, ...]


class ClassImages(NamedTuple):
    """The stored samples of one class, those to be shown first."""

    flagged: Sequence[StoredImage]
    kept: Sequence[StoredImage]


def class_images(entry: ClassReport, images: StoredImages, scores: Mapping[str, FlaggedSample]) -> ClassImages:
    """Return a class's stored samples: the surest flagged ones first, the kept ones as drawn."""
    flagged = sorted(images.flagged.get(entry.label, ()), key=lambda image: -scores[image.digest].score)
    return ClassImages(flagged, images.kept.get(entry.label, ()))


def gallery(
    chosen: ClassImages,
    images: StoredImages,
    trigger: TriggerPicture | None,
    scores: Mapping[str, FlaggedSample],
    budget: Budget,
    *,
    most: int,
) -> Gallery:
    """Return pictures of a class's samples as far as the budget goes.

    Args:
        chosen: the class's samples.
        images: where their pixels are.
        trigger: what to outline.
        scores: the report's flagged samples by digest.
        budget: what pictures may still take.
        most: images of each kind.
    """
    return Gallery(
        flagged=_shown(chosen.flagged[:most], images, trigger, scores, budget),
        kept=_shown(chosen.kept[:most], images, trigger, scores, budget),
    )


def _shown(
    samples: Sequence[StoredImage],
    images: StoredImages,
    trigger: TriggerPicture | None,
    scores: Mapping[str, FlaggedSample],
    budget: Budget,
) -> tuple[GalleryImage, ...]:
    shown = []
    for pixels, sample in zip(images.pixels(samples) if samples else (), samples, strict=True):
        known = scores.get(sample.digest)
        # The report's key is the one that the data bear now.
        image = _gallery_image(pixels, known.key if known else sample.key, known.score if known else None, trigger)
        size = len(image.picture.source) + (len(image.detail.source) if image.detail else 0)
        if not budget.take(size):
            break
        shown.append(image)
    return tuple(shown)


def _gallery_image(pixels: Pixels, key: str, score: float | None, trigger: TriggerPicture | None) -> GalleryImage:
    height, width, _ = pixels.shape
    is_local = trigger is not None and not is_whole(trigger)
    kind = "kept" if score is None else "flagged"
    picture = Picture(
        source=data_address(pixels),
        width=width,
        height=height,
        alt=f"{kind} sample {printable(key)}",
        outline=None if trigger is None else outline_of(trigger),
    )
    detail = None
    if trigger is not None and is_local:
        window = np.ascontiguousarray(pixels[trigger.window()])
        detail = Picture(data_address(window, largest=48), window.shape[1], window.shape[0], "the same, at the trigger")
    return GalleryImage(picture, detail, key, score)


def common_pictures(chosen: ClassImages, images: StoredImages, trigger: TriggerPicture | None) -> list[Picture]:
    """Return the mean difference and the variance of a class's samples, as far as there are enough of them."""
    if not chosen.flagged:
        return []
    most = max(2, min(_FOR_MEANS, _PIXELS_FOR_MEANS // images.pixels(chosen.flagged[:1]).size))
    flagged = images.pixels(chosen.flagged[:most])
    outline = None if trigger is None else outline_of(trigger)
    found = []
    if chosen.kept:
        kept = images.pixels(chosen.kept[:most])
        alt = f"difference between the means of {len(flagged)} flagged and {len(kept)} kept samples"
        found.append(_common(mean_difference(flagged, kept), "Mean difference", alt, outline))
    if len(flagged) > 1:
        alt = f"variance of each pixel over {len(flagged)} flagged samples: dark where they agree"
        found.append(_common(variance_picture(flagged), "Variance", alt, outline))
    return found


def _common(pixels: Pixels, caption: str, alt: str, outline: tuple[int, int, int, int] | None) -> Picture:
    return Picture(data_address(pixels), pixels.shape[1], pixels.shape[0], alt, caption, outline)
