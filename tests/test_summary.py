"""The report in at most ten lines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from vbdguard.guards.policy import OnPoison
from vbdguard.report import (
    ArtefactReport,
    ClassReport,
    DatasetReport,
    FlaggedSample,
    ScanReport,
    SkippedSample,
    TriggerReport,
)
from vbdguard.summary import summarise
from vbdguard.wording import artefact_words

DIGEST = "0123456789abcdef" * 4
TRIGGER = TriggerReport((28, 28, 3, 3), 9, 0.5, "", "")


def make(poisoned: int = 0, *, skipped: int = 0, name: Callable[[int], str] = "thing{}".format) -> ScanReport:
    """Ten classes of 100 samples; the first `poisoned` of them with a trigger and 8 flagged samples."""
    classes = tuple(
        ClassReport(
            label=label,
            name=name(label),
            samples=100,
            poisoned=label < poisoned,
            flagged=8 * (label < poisoned),
            p_value=1e-9,
            attack_success_rate=0.987 if label < poisoned else None,
            trigger=TRIGGER if label < poisoned else None,
        )
        for label in range(10)
    )
    flagged = [FlaggedSample(f"k{i}", DIGEST, i // 8, 1.0, None) for i in range(8 * poisoned)]
    return ScanReport(
        status="incomplete" if skipped else "complete",
        verdict="poisoned" if poisoned else "clean",
        dataset=DatasetReport(DIGEST, ("shards/",), 1000, 10, (32, 32, 3), ()),
        config={},
        seed=0,
        device="cpu",
        classes=classes,
        flagged=tuple(flagged),
        skipped=tuple(SkippedSample(f"bad{i}", "truncated", "ends early") for i in range(skipped)),
        timings={},
        environment={},
        tool={"name": "vbdguard", "version": "0"},
    )


def test_poison_is_named_with_place_and_proof() -> None:
    lines = summarise(make(1), on_poison="drop").splitlines()
    assert lines == [
        "vbdguard: POISONED. A trigger in 1 of 10 classes; 8 of 1,000 samples flagged (0.8%).",
        "  class 0 thing0: 3 x 3 bottom right, blend 50%; turns 98.7% of other images; 8 flagged",
        '  Training leaves the flagged samples out (on_poison="drop").',
    ]


@pytest.mark.parametrize(
    ("policy", "words"),
    [("relabel", "under the classes that they look like"), ("warn", "own the model"), ("raise", "stops")],
)
def test_the_policy_is_said(policy: OnPoison, words: str) -> None:
    assert words in summarise(make(1), on_poison=policy).splitlines()[-1]


def test_without_a_guard_it_says_how_to_get_one() -> None:
    assert "vbdguard.guard(" in summarise(make(1))


def test_clean_data_are_called_clean_with_what_is_not_seen() -> None:
    text = summarise(make(), on_poison="drop")
    assert text.startswith("vbdguard: CLEAN. No trigger found in 1,000 samples of 10 classes.\n")
    assert "not seen" in text


def test_what_could_not_be_read_is_never_clean() -> None:
    text = summarise(make(skipped=5), on_poison="drop")
    assert text.startswith("vbdguard: INCOMPLETE. ")
    assert "CLEAN" not in text
    assert "5 truncated (bad0, bad1, ...)" in text


def test_ten_lines_are_enough_for_anything() -> None:
    text = summarise(make(10, skipped=5), on_poison="drop")
    assert len(text.splitlines()) <= 10
    assert "and 6 more poisoned classes" in text


def test_a_class_without_a_recovered_trigger_is_named_too() -> None:
    report = make(1)
    bare = replace(report.classes[0], trigger=None, attack_success_rate=None)
    text = summarise(replace(report, classes=(bare, *report.classes[1:])))
    assert "class 0 thing0: a trigger that was not recovered; p-value 1e-09; 8 flagged" in text


def test_names_cannot_draw_on_the_terminal() -> None:
    text = summarise(make(1, skipped=1, name=lambda label: "\x1b[31m\nCLEAN"))
    assert "\x1b" not in text
    assert "\nCLEAN" not in text


def test_an_artefact_is_named_and_the_data_are_clean() -> None:
    report = make()
    classes = tuple(replace(c, artefact=ArtefactReport(80, TRIGGER)) if c.label == 2 else c for c in report.classes)
    text = summarise(replace(report, classes=classes))
    assert text.startswith("vbdguard: CLEAN.")
    assert "class 2 thing2: a pattern (3 x 3 bottom right) on 80 of 100 samples, whose labels fit" in text


def test_of_a_picture_that_hides_everything_nobody_says_that_the_labels_fit() -> None:
    report = make()
    height, width, _ = report.dataset.image_shape
    picture = ArtefactReport(80, replace(TRIGGER, bbox=(0, 0, height, width), blend_factor=1.0))
    entry = replace(report.classes[2], artefact=picture)
    words = artefact_words(entry, report.dataset.image_shape)
    assert words.endswith("on 80 of 100 samples, which show nothing else: look whether it belongs there")
