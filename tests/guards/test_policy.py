"""The words that steer a guard."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace

import pytest

from vbdguard.errors import ConfigError, PoisonFoundError, UnscannedSampleError
from vbdguard.guards.policy import GuardWarning, Policy
from vbdguard.report import ScanReport, SkippedSample


def test_the_defaults_drop_poison_and_stop_at_the_unscanned() -> None:
    assert Policy() == Policy(on_poison="drop", on_unscanned="raise")


@pytest.mark.parametrize("setting", ["on_poison", "on_unscanned"])
@pytest.mark.parametrize("word", ["keep", "", None, "DROP"])
def test_an_unknown_word_is_refused_with_the_known_ones(setting: str, word: object) -> None:
    with pytest.raises(ConfigError, match=f"{setting} must be one of .*raise.*, got {word!r}"):
        Policy(**{setting: word})  # type: ignore[arg-type]


def test_relabel_is_no_word_for_the_unscanned() -> None:
    with pytest.raises(ConfigError, match="on_unscanned must be one of raise, drop, warn, got 'relabel'"):
        Policy(on_unscanned="relabel")  # type: ignore[arg-type]


def test_raise_names_how_many_and_which_classes(report: ScanReport) -> None:
    with pytest.raises(PoisonFoundError, match=r"cifar: 3 poisoned samples, classes 1 \(bee\); .*on_poison=\"drop\""):
        Policy(on_poison="raise").meet_poison(report, name="cifar", flagged=3)


def test_warn_warns(report: ScanReport) -> None:
    with pytest.warns(GuardWarning, match="cifar: 3 poisoned samples"):
        Policy(on_poison="warn").meet_poison(report, name="cifar", flagged=3)


@pytest.mark.parametrize("word", ["drop", "relabel"])
def test_drop_and_relabel_are_silent(word: str, report: ScanReport) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Policy(on_poison=word).meet_poison(report, name="cifar", flagged=3)  # type: ignore[arg-type]


def test_a_trigger_without_a_flagged_sample_warns(report: ScanReport) -> None:
    classes = tuple(replace(entry, flagged=0) for entry in report.classes)
    with pytest.warns(GuardWarning, match=r"no sample to take out in classes 1 \(bee\)"):
        Policy().meet_poison(replace(report, classes=classes, flagged=()), name="cifar", flagged=0)


@pytest.mark.parametrize("word", ["drop", "relabel", "warn", "raise"])
def test_clean_data_pass_in_silence(word: str, report_on: Callable[..., ScanReport], data: list[object]) -> None:
    clean = report_on([data[0], data[1]], {})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Policy(on_poison=word).meet_poison(clean, name="cifar", flagged=0)  # type: ignore[arg-type]


def test_unscanned_samples_are_named_up_to_three() -> None:
    entries = [SkippedSample(str(index), "item-failed", "OSError: gone") for index in range(5)]
    with pytest.raises(UnscannedSampleError, match=r"5 samples could not be scanned \(0: item-failed.*2: .*and 2 more"):
        Policy().meet_unscanned(entries, name="cifar")


def test_unscanned_samples_may_pass_with_a_warning_or_go_in_silence() -> None:
    entries = [SkippedSample("0", "item-failed", "OSError: gone")]
    with pytest.warns(GuardWarning, match="could not be scanned"):
        Policy(on_unscanned="warn").meet_unscanned(entries, name="cifar")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Policy(on_unscanned="drop").meet_unscanned(entries, name="cifar")
        Policy().meet_unscanned([], name="cifar")
