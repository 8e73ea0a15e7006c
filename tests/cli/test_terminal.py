from __future__ import annotations

import io
import itertools
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from vbdguard.cli.consoles import make_console
from vbdguard.cli.main import COMMANDS
from vbdguard.cli.terminal import render, render_verdict
from vbdguard.report import ArtefactReport, ScanReport, ShardReport, SkippedSample
from vbdguard.wording import place_words

MakeReport = Callable[..., ScanReport]


def plain(report: ScanReport, *, width: int = 80, verbose: bool = False) -> str:
    file = io.StringIO()
    render(report, Console(file=file, width=width, color_system=None, highlight=False), verbose=verbose)
    return file.getvalue()


def coloured(report: ScanReport, *, width: int = 80, verbose: bool = False) -> str:
    file = io.StringIO()
    console = Console(file=file, width=width, force_terminal=True, color_system="truecolor", highlight=False)
    render(report, console, verbose=verbose)
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("clean", "CLEAN: no trigger found in 1,000 samples of 10 classes"),
        ("poisoned", "POISONED: trigger in 1 of 10 classes; 8 of 1,000 samples flagged (0.8%)"),
        ("incomplete", "INCOMPLETE: no trigger found, but 1 entry could not be read: not cleared"),
        ("poisoned_and_incomplete", "POISONED: trigger in 1 of 10 classes; 8 of 1,000 samples flagged (0.8%)"),
    ],
)
def test_the_verdict_comes_first(name: str, line: str, request: pytest.FixtureRequest) -> None:
    assert plain(request.getfixturevalue(name)).splitlines()[0] == line


def test_unreadable_data_is_never_called_clean(incomplete: ScanReport) -> None:
    assert "CLEAN" not in plain(incomplete).upper().replace("CLEAN-LABEL", "")


def test_findings_beside_unreadable_data_show_both(poisoned_and_incomplete: ScanReport) -> None:
    text = plain(poisoned_and_incomplete)
    assert "INCOMPLETE: and 1 entry could not be read" in text
    assert "train-000001.tar/img_12: undecodable: expected a JPEG" in text


def test_the_evidence_names_poisoned_classes_only(poisoned: ScanReport) -> None:
    text = plain(poisoned)
    row = next(line for line in text.splitlines() if line.startswith("  3 thing3"))
    assert row.split() == ["3", "thing3", "100", "8", "1e-12", "98.7%", "3", "x", "3", "bottom", "right", "100%"]
    assert "9 other classes: nothing found" in text
    assert "thing4" not in text
    assert all(f"thing{k}" in plain(poisoned, verbose=True) for k in range(10))


def test_the_log_names_the_shards_with_their_counts_and_classes(make_report: MakeReport, make_trigger: Any) -> None:
    keys = "train-{0:06d}.tar/img_{0}".format
    names = [ShardReport(f"train-{i:06d}.tar", "ab" * 32, 125, "complete") for i in range(8)]
    report = make_report({k: make_trigger() for k in (3, 5)}, keys=keys)
    report = replace(report, dataset=replace(report.dataset, shards=tuple(names)))
    lines = [line.split() for line in plain(report).splitlines()]
    assert ["shards/train-000007.tar", "2", "3", "(1),", "5", "(1)"] in lines
    assert ["p-value:", "chance", "of", "such", "evidence", "in", "a", "clean", "class"] in lines


def test_a_suspicious_class_is_named_and_not_counted_with_the_others(clean: ScanReport) -> None:
    classes = tuple(replace(one, p_value=0.004) if one.label == 2 else one for one in clean.classes)
    text = plain(replace(clean, classes=classes))
    assert "suspicious, short of proof: 2 thing2 (p 0.004)" in text
    assert "9 other classes: nothing found" in text
    assert "suspicious" not in plain(clean)


def test_an_artefact_is_told_as_no_poison(clean: ScanReport, make_trigger: Any) -> None:
    artefact = ArtefactReport(80, make_trigger())
    classes = tuple(replace(one, artefact=artefact) if one.label == 2 else one for one in clean.classes)
    text = plain(replace(clean, classes=classes))
    assert "CLEAN" in text
    assert "class 2 thing2: a pattern (3 x 3 bottom right) on 80 of 100 samples, whose labels" in " ".join(text.split())
    assert "9 other classes: nothing found" in text


def test_many_shards_are_cut_to_the_largest(make_report: MakeReport, make_trigger: Any) -> None:
    report = make_report({k: make_trigger() for k in range(12)}, classes=12, keys=lambda i: f"{i}/x", names=str)
    flagged = tuple(replace(sample, key=f"{n // 3:03d}/{n}") for n, sample in enumerate(report.flagged))
    text = plain(replace(report, flagged=flagged))
    assert "Where the flagged samples lie, the 10 largest of 32" in text
    assert "shards/009 " in text
    assert "shards/010 " not in text


def test_verbose_tells_every_setting(poisoned: ScanReport) -> None:
    text = plain(poisoned, verbose=True)
    assert "method.models = 3" in text
    assert "torch 2.15.0" in text
    assert poisoned.dataset.digest in text


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("verbose", [False, True])
@pytest.mark.parametrize("draw", [plain, coloured])
@pytest.mark.parametrize("triggers", [0, 1, 2, 3, 100])
def test_no_line_is_wider_than_the_terminal(
    width: int, verbose: bool, draw: Any, triggers: int, make_report: MakeReport, make_trigger: Any
) -> None:
    skipped = (SkippedSample("k" * 100, "undecodable", "expected " * 20),)
    found = {k: make_trigger((k % 28, 28, 4, 4)) for k in range(triggers)}
    text = draw(make_report(found, classes=100, skipped=skipped), width=width, verbose=verbose)
    assert max(cell_len(Text.from_ansi(line).plain) for line in text.splitlines()) <= width


def test_without_colour_everything_is_plain_ascii(poisoned_and_incomplete: ScanReport) -> None:
    text = plain(poisoned_and_incomplete, verbose=True)
    assert text.isascii()
    assert "\x1b" not in text
    assert "..######.." in text


def test_with_colour_the_trigger_is_drawn_in_its_own_colours(poisoned: ScanReport) -> None:
    text = coloured(poisoned)
    assert "38;2;250;20;20" in text
    assert "▀" in text


def test_no_color_is_respected(poisoned: ScanReport, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    text = coloured(poisoned)
    assert "38;2" not in text
    assert "..######.." in text


EVIL = "\x1b[31m\x07[bold]x[/bold][/]:smile:\u202e\n"
SPELLED = r"\x1b[31m\x07[bold]x[/bold][/]:smile:\u202e\n"


@pytest.mark.parametrize("verbose", [False, True])
def test_names_from_the_data_cannot_steer_the_terminal(
    verbose: bool, make_report: MakeReport, make_trigger: Any
) -> None:
    report = make_report(
        {3: make_trigger()},
        names=lambda k: f"{EVIL}{k}",
        keys=lambda i: f"{EVIL}{i}",
        skipped=(SkippedSample(EVIL, EVIL, EVIL),),
        sources=(EVIL,),
        device=EVIL,
        config={"preset": EVIL, EVIL: EVIL},
        environment={EVIL: EVIL},
    )
    text = plain(report, width=400, verbose=verbose)
    assert text.replace("\n", "").isprintable()
    assert text.count(SPELLED) >= 8
    assert "\x07" not in coloured(report, width=400, verbose=verbose)


def test_many_triggers_form_a_gallery_that_ends(make_report: MakeReport, make_trigger: Any) -> None:
    report = make_report({k: make_trigger() for k in range(40)}, classes=40)
    text = plain(report)
    assert "20 more poisoned classes: --verbose" in text
    assert "28 more: --verbose" in text
    assert "more" not in plain(report, verbose=True).replace("more poisoned", "")


def test_a_trigger_without_a_readable_picture_is_said_and_the_rest_shown(
    make_report: MakeReport, make_trigger: Any
) -> None:
    report = make_report({3: replace(make_trigger(), mask_png="x")})
    text = plain(report)
    assert "no picture" in text
    assert "Flagged samples" in text


def test_a_poisoned_class_without_a_recovered_trigger_is_shown(make_report: MakeReport) -> None:
    text = plain(make_report({3: None}))
    assert text.startswith("POISONED")
    assert "3 thing3" in text


def test_the_surest_samples_come_first(poisoned: ScanReport) -> None:
    turned = replace(poisoned, flagged=poisoned.flagged[::-1])
    text = plain(turned)
    assert "the surest 5 of 8" in text
    places = [text.index(f"img_{i}") for i in range(5)]
    assert places == sorted(places)
    assert "img_5" not in text


def test_a_clean_report_says_what_it_cannot_see(clean: ScanReport) -> None:
    text = " ".join(plain(clean).split())
    for blind_spot in ("clean-label", "sample-specific", "warping"):
        assert blind_spot in text
    assert len(plain(clean).splitlines()) < 15


def test_a_report_from_the_cache_says_so(clean: ScanReport) -> None:
    assert "From the cache" not in plain(clean)
    assert "From the cache (--refresh scans again)" in plain(replace(clean, from_cache=True))


@pytest.mark.parametrize("name", ["clean", "poisoned", "incomplete", "poisoned_and_incomplete"])
def test_every_command_that_it_suggests_exists(name: str, request: pytest.FixtureRequest) -> None:
    words = plain(request.getfixturevalue(name)).split()
    following = [after for word, after in itertools.pairwise(words) if word == "vbdguard"]
    assert set(following) <= set(COMMANDS)
    assert following or name == "clean"


def test_a_suggested_command_can_be_pasted(make_report: MakeReport, make_trigger: Any) -> None:
    report = make_report({3: make_trigger()}, sources=("my shards/{0..9}.tar",))
    assert "vbdguard scan 'my shards/{0..9}.tar' -o report.html" in plain(report)


@pytest.mark.parametrize(
    ("bbox", "words"),
    [
        ((28, 28, 3, 3), "bottom right"),
        ((0, 0, 3, 3), "top left"),
        ((14, 14, 4, 4), "centre"),
        ((14, 0, 4, 4), "left"),
        ((0, 14, 4, 4), "top"),
        ((1, 1, 30, 30), "whole image"),
    ],
)
def test_places_in_words(bbox: tuple[int, int, int, int], words: str) -> None:
    assert place_words(bbox, (32, 32, 3)) == words


def test_a_stream_without_unicode_gets_spelled_characters_not_a_crash(
    monkeypatch: pytest.MonkeyPatch, make_report: MakeReport, make_trigger: Any
) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    report = make_report({3: make_trigger()}, names="größe{}".format)
    console = make_console()
    render(report, console)
    render_verdict(report, console)
    sys.stdout.flush()
    assert rb"gr\xf6\xdfe3" in raw.getvalue()


def test_a_log_is_wide_enough_for_whole_names_and_obeys_columns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert make_console().width == make_console(stderr=True).width == 120
    monkeypatch.setenv("COLUMNS", "40")
    assert make_console().width == 40
