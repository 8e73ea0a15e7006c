"""Attacks to try on a trained model: those that a scan has found, or one that is known."""

from __future__ import annotations

import base64
import binascii
import io
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from vbdguard.attacks.copying import PoisonSettings
from vbdguard.attacks.triggers import Size, Trigger, frame_trigger
from vbdguard.errors import ConfigError, ReportError
from vbdguard.ingest.store import PixelStore
from vbdguard.report import ScanReport, TriggerReport


@dataclass(frozen=True, slots=True, eq=False)
class Attack:
    """A trigger, where it is pasted, and what it is meant to do."""

    target: int
    """The class index that it aims at."""
    trigger: Trigger
    """As large as the images."""
    blend_factor: float
    victims: int | None
    """The class whose samples it is pasted on; None: all but the target."""
    origin: Literal["extracted", "known"]


def extracted_attacks(report: ScanReport, store: PixelStore) -> tuple[Attack, ...]:
    """Return the attacks that a scan has found, with the triggers as it recovered them.

    Raises:
        ReportError: if a trigger in the report is no picture of the data's size.
    """
    place = {label: index for index, label in enumerate(store.class_labels)}
    size = store.image_shape[:2]
    return tuple(
        Attack(
            target=place[entry.label],
            trigger=_decoded(entry.trigger, size, entry.label),
            # Pasted in full where the scan did not see how strongly the attacker did.
            blend_factor=entry.trigger.blend_factor or 1.0,
            victims=None,
            origin="extracted",
        )
        for entry in report.classes
        if entry.poisoned and entry.trigger is not None
    )


def known_attacks(settings: PoisonSettings, store: PixelStore) -> tuple[Attack, ...]:
    """Return the attacks that a poisoning with these settings makes: one, or one per class if it is all-to-all.

    Raises:
        ConfigError: if the trigger does not fit the images, or the target is no class.
    """
    size = store.image_shape[:2]
    K = len(store.class_labels)
    if settings.mode == "all-to-one":
        if settings.target not in store.class_labels:
            known = ", ".join(map(str, store.class_labels[:20]))
            raise ConfigError(f"target must be one of the data's classes ({known}), got {settings.target}")
        framed = frame_trigger(settings.trigger, size, position=settings.position)
        target = store.class_labels.index(settings.target)
        return (Attack(target, framed, settings.blend_factor, victims=None, origin="known"),)
    return tuple(
        Attack(
            target=(rank + 1) % K,
            trigger=frame_trigger(settings.trigger, size, mode=settings.mode, position=settings.position, rank=rank),
            blend_factor=settings.blend_factor,
            victims=rank,
            origin="known",
        )
        for rank in range(K)
    )


def _decoded(trigger: TriggerReport, size: Size, label: int) -> Trigger:
    try:
        pattern, mask = (
            np.asarray(Image.open(io.BytesIO(base64.b64decode(text, validate=True)), formats=("PNG",)).convert(mode))
            for text, mode in ((trigger.pattern_png, "RGB"), (trigger.mask_png, "L"))
        )
    except (binascii.Error, OSError, ValueError, Image.DecompressionBombError) as error:
        raise ReportError(f"the trigger of class {label} in the report is no PNG image: {error}; scan again") from error
    if pattern.shape[:2] != size or mask.shape != size:
        raise ReportError(
            f"the trigger of class {label} in the report is of {mask.shape[0]} x {mask.shape[1]} pixels, "
            f"the data are of {size[0]} x {size[1]}; scan again"
        )
    return Trigger(f"class {label}", pattern, mask > 0)
