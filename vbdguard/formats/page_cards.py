"""The poisoned classes as the HTML page shows them: a row each, and a card with pictures for the largest."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vbdguard.by_shard import FlaggedPlace, flagged_places, place_path
from vbdguard.escaping import printable
from vbdguard.findings import findings_of
from vbdguard.formats.page_gallery import Gallery, class_images, common_pictures, gallery
from vbdguard.formats.page_histogram import Histogram, histogram
from vbdguard.formats.page_pictures import Budget, Picture, data_address, mask_pixels, outline_of, pattern_pixels
from vbdguard.formats.rendering import Extras
from vbdguard.formats.trigger_picture import TriggerPicture, open_png
from vbdguard.report import ClassReport, FlaggedSample, ScanReport, TriggerReport
from vbdguard.wording import (
    WHOLE_IMAGE,
    attack_words,
    blend_words,
    class_words,
    p_value_words,
    percent,
    place_words,
    trigger_words,
)

MOST_ROWS, MOST_CARDS = 1_500, 60
_MOST_PLACES = 10
_THUMBNAIL = 32
_IN_GALLERY = 10
PICTURE_BYTES = 2_500_000
"""What the pictures of a page may take in all; the text of 1,000 classes takes about one more million."""


@dataclass(frozen=True, slots=True)
class Row:
    """One poisoned class in the table."""

    entry: ClassReport
    name: str
    share: str
    p_value: str
    attack: str
    trigger: str
    blend: str
    thumbnail: Picture | None
    accepted: str | None
    """Why the baseline accepts it."""
    has_card: bool


@dataclass(frozen=True, slots=True)
class Card:
    """One poisoned class in full."""

    entry: ClassReport
    name: str
    facts: tuple[tuple[str, str], ...]
    pictures: tuple[Picture, ...]
    missing: str
    """What cannot be shown, and why; "" where nothing is missing."""
    gallery: Gallery | None
    histogram: Histogram
    places: tuple[tuple[str, int], ...]
    more_places: int
    accepted: str | None


@dataclass(frozen=True, slots=True)
class PoisonedClasses:
    """All of them, the one with the most flagged samples first."""

    rows: tuple[Row, ...]
    """`MOST_ROWS` at most."""
    cards: tuple[Card, ...]
    """`MOST_CARDS` at most."""
    total: int


def poisoned_classes(report: ScanReport, extras: Extras) -> PoisonedClasses:
    """Return the poisoned classes of a report with their pictures, as many as fit `PICTURE_BYTES`."""
    ranked = sorted(report.poisoned_classes, key=lambda entry: (-entry.flagged, entry.label))
    budget = Budget(PICTURE_BYTES)
    accepted = {
        finding.label: extras.accepted[finding.digest]
        for finding in findings_of(report)
        if finding.rule == "backdoor-trigger" and finding.digest in extras.accepted
    }
    with_card = {entry.label for entry in ranked[:MOST_CARDS]}
    rows = tuple(
        _row(entry, report, accepted.get(entry.label), budget, has_card=entry.label in with_card)
        for entry in ranked[:MOST_ROWS]
    )
    maker = _CardMaker(report, extras, budget)
    cards = tuple(maker.card(entry, accepted.get(entry.label)) for entry in ranked[:MOST_CARDS])
    return PoisonedClasses(rows, cards, len(ranked))


def _row(entry: ClassReport, report: ScanReport, accepted: str | None, budget: Budget, *, has_card: bool) -> Row:
    trigger = entry.trigger
    thumbnail = None
    if trigger is not None and (picture := _decoded(trigger)) is not None:
        cropped = pattern_pixels(picture, is_cropped=True)
        source = data_address(cropped, largest=_THUMBNAIL)
        if budget.take(len(source)):
            thumbnail = Picture(source, cropped.shape[1], cropped.shape[0], f"trigger of class {class_words(entry)}")
    return Row(
        entry=entry,
        name=class_words(entry),
        share=percent(entry.flagged / entry.samples if entry.samples else 0.0),
        p_value=p_value_words(entry.p_value),
        attack=percent(entry.attack_success_rate),
        trigger="not recovered" if trigger is None else trigger_words(trigger, report.dataset.image_shape),
        blend="-" if trigger is None else blend_words(trigger),
        thumbnail=thumbnail,
        accepted=accepted,
        has_card=has_card,
    )


class _CardMaker:
    """Makes the cards of one report, one after the other, while the budget lasts."""

    def __init__(self, report: ScanReport, extras: Extras, budget: Budget) -> None:
        self._report = report
        self._images = extras.images
        self._budget = budget
        self._scores = {sample.digest: sample for sample in report.flagged}
        self._flagged: Mapping[int, list[FlaggedSample]] = _by_label(report.flagged)
        self._places: defaultdict[int, list[FlaggedPlace]] = defaultdict(list)
        for place in flagged_places(report):
            self._places[place.label].append(place)

    def card(self, entry: ClassReport, accepted: str | None) -> Card:
        """Return the card of a class."""
        trigger = None if entry.trigger is None else _decoded(entry.trigger)
        places = sorted(self._places[entry.label], key=lambda place: (-len(place.samples), place.place))
        common, shown, missing = self._of_samples(entry, trigger)
        own = [] if trigger is None or entry.trigger is None else _trigger_pictures(trigger, entry.trigger)
        return Card(
            entry=entry,
            name=class_words(entry),
            facts=tuple(_facts(entry, self._report)),
            pictures=tuple(picture for picture in (*own, *common) if self._budget.take(len(picture.source))),
            missing=missing,
            gallery=shown,
            histogram=histogram(entry, self._flagged.get(entry.label, [])),
            places=tuple((place_path(self._report, one.place), len(one.samples)) for one in places[:_MOST_PLACES]),
            more_places=max(0, len(places) - _MOST_PLACES),
            accepted=accepted,
        )

    def _of_samples(
        self, entry: ClassReport, trigger: TriggerPicture | None
    ) -> tuple[list[Picture], Gallery | None, str]:
        """Return what the samples' pixels show, and what is missing where they are not at hand."""
        if self._images is None or not self._images.flagged.get(entry.label):
            return [], None, "The samples' pixels are not in the cache of the machine that made this page."
        if self._budget.left < PICTURE_BYTES // 10:
            return [], None, "Left out so that the page stays small."
        chosen = class_images(entry, self._images, self._scores)
        try:
            common = common_pictures(chosen, self._images, trigger)
            most = _IN_GALLERY if len(self._report.poisoned_classes) <= 20 else _IN_GALLERY // 2
            shown = gallery(chosen, self._images, trigger, self._scores, self._budget, most=most)
        except (OSError, ValueError) as error:
            return [], None, f"The samples' pixels cannot be read from the cache: {printable(str(error))}"
        return common, shown, ""


def _by_label(samples: Sequence[FlaggedSample]) -> dict[int, list[FlaggedSample]]:
    found: defaultdict[int, list[FlaggedSample]] = defaultdict(list)
    for sample in samples:
        found[sample.label].append(sample)
    return dict(found)


def _decoded(trigger: TriggerReport) -> TriggerPicture | None:
    try:
        return TriggerPicture.of(trigger)
    except ValueError:  # a report that somebody wrote by hand
        return None


def _trigger_pictures(picture: TriggerPicture, trigger: TriggerReport) -> list[Picture]:
    height, width = picture.mask.shape
    outline = outline_of(picture)
    found = []
    if outline is not None:
        cropped = pattern_pixels(picture, is_cropped=True)
        found.append(
            Picture(data_address(cropped), cropped.shape[1], cropped.shape[0], "the trigger, enlarged", "Pattern")
        )
    whole = pattern_pixels(picture, is_cropped=False)
    caption = "Pattern" if outline is None else "In the image"
    found.append(Picture(data_address(whole), width, height, "the trigger in its place", caption, outline))
    found.append(
        Picture(data_address(mask_pixels(picture)), width, height, "the mask: white where the trigger is", "Mask")
    )
    if trigger.gradient_png is not None:
        try:
            gradient = np.asarray(open_png(trigger.gradient_png).convert("L"))
        except ValueError:
            return found
        alt = "how strongly each pixel moves the model's decision for this class"
        found.append(Picture(data_address(gradient), gradient.shape[1], gradient.shape[0], alt, "Gradient", outline))
    return found


def _facts(entry: ClassReport, report: ScanReport) -> list[tuple[str, str]]:
    share = entry.flagged / entry.samples if entry.samples else 0.0
    facts = [("Flagged", f"{entry.flagged:,} of {entry.samples:,} samples ({share:.1%})")]
    if entry.p_value is not None:
        facts.append(("p-value", f"{p_value_words(entry.p_value)}: chance of such evidence in a clean class"))
    if entry.attack_success_rate is not None:
        facts.append(("Effect", f"turns {attack_words(entry.attack_success_rate)} into this class"))
    if (trigger := entry.trigger) is not None:
        top, left, height, width = trigger.bbox
        place = place_words(trigger.bbox, report.dataset.image_shape)
        where = place if place == WHOLE_IMAGE else f"{place}: row {top}, column {left}"
        facts.append(("Trigger", f"{height} × {width} pixels, {trigger.pixels:,} in the mask"))
        facts.append(("Place", where))
        if trigger.blend_factor is not None:
            facts.append(("Blend", f"{blend_words(trigger)} opaque"))
    return facts
