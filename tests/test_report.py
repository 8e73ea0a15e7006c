from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vbdguard.errors import ReportError
from vbdguard.report import (
    STAGES,
    ArtefactReport,
    ClassReport,
    DatasetReport,
    FlaggedSample,
    ScanReport,
    ShardReport,
    SkippedSample,
    TriggerReport,
    report_schema,
)

VALIDATOR = jsonschema.Draft202012Validator(report_schema())
DIGEST = "0123456789abcdef" * 4

digests = st.binary(min_size=32, max_size=32).map(bytes.hex)
shares = st.floats(0, 1)
# file names are not always valid Unicode: surrogates must survive as well
texts = st.text(st.characters(), max_size=12)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)


@st.composite
def triggers(draw: st.DrawFn) -> TriggerReport:
    height, width = draw(st.integers(1, 64)), draw(st.integers(1, 64))
    return TriggerReport(
        bbox=(draw(st.integers(0, 64)), draw(st.integers(0, 64)), height, width),
        pixels=draw(st.integers(1, height * width)),
        blend_factor=draw(st.none() | st.floats(0, 1, exclude_min=True)),
        pattern_png=draw(st.text("abcXYZ019+/=", max_size=8)),
        mask_png="",
    )


@st.composite
def class_reports(draw: st.DrawFn) -> ClassReport:
    samples = draw(st.integers(0, 10**9))
    return ClassReport(
        label=draw(st.integers(-5, 10**6)),
        name=draw(texts),
        samples=samples,
        poisoned=draw(st.booleans()),
        flagged=draw(st.integers(0, samples)),
        p_value=draw(st.none() | shares),
        attack_success_rate=draw(st.none() | shares),
        trigger=draw(st.none() | triggers()),
        artefact=draw(st.none() | st.builds(ArtefactReport, st.integers(1, samples), triggers())) if samples else None,
    )


shard_reports = st.builds(
    ShardReport,
    name=texts,
    digest=digests,
    samples=st.integers(0, 10**9),
    status=st.sampled_from(("complete", "incomplete", "unreadable")),
) | st.just(ShardReport(name="lost.tar", digest="", samples=0, status="unreadable"))
flagged_samples = st.builds(FlaggedSample, key=texts, digest=digests, score=shares)


@st.composite
def reports(draw: st.DrawFn) -> ScanReport:
    classes = tuple(draw(st.lists(class_reports(), max_size=3)))
    is_poisoned = any(c.poisoned for c in classes)
    shards = tuple(draw(st.lists(shard_reports, max_size=3)))
    skipped = tuple(draw(st.lists(st.builds(SkippedSample), max_size=2)))
    is_whole = not skipped and all(shard.status == "complete" for shard in shards)
    return ScanReport(
        status=draw(st.sampled_from(("complete", "incomplete"))) if is_whole else "incomplete",
        verdict="poisoned" if is_poisoned else "clean",
        dataset=DatasetReport(
            digest=draw(digests),
            sources=tuple(draw(st.lists(texts, max_size=2))),
            samples=draw(st.integers(0, 10**9)),
            classes=len(classes),
            image_shape=draw(st.tuples(*[st.integers(1, 512)] * 3)),
            shards=shards,
        ),
        config=draw(st.dictionaries(texts, json_values, max_size=3)),
        seed=draw(st.integers(0, 2**32 - 1)),
        device=draw(texts),
        classes=classes,
        flagged=tuple(draw(st.lists(flagged_samples, max_size=3))) if is_poisoned else (),
        skipped=skipped,
        timings=draw(st.dictionaries(st.sampled_from((*STAGES, "total")), st.floats(0, 1e9), max_size=8)),
        environment=draw(st.dictionaries(texts, texts, max_size=2)),
        tool={"name": "vbdguard", "version": draw(texts)},
    )


def small_report(**changes: Any) -> ScanReport:
    trigger = TriggerReport(bbox=(28, 28, 3, 3), pixels=9, blend_factor=1.0, pattern_png="", mask_png="")
    report = ScanReport(
        status="complete",
        verdict="poisoned",
        dataset=DatasetReport(
            digest=DIGEST,
            sources=("shards/",),
            samples=20,
            classes=2,
            image_shape=(32, 32, 3),
            shards=(ShardReport("train-0.tar", DIGEST, 20, "complete"),),
        ),
        config={"preset": "default"},
        seed=0,
        device="cpu",
        classes=(
            ClassReport(0, "cat", 10, True, 1, 1e-9, 0.98, trigger),
            ClassReport(1, "dog", 10, False, 0, 0.4, None, None),
        ),
        flagged=(FlaggedSample("train-0.tar/7", DIGEST, 0, 0.97, 1),),
        skipped=(),
        timings={"total": 1.5},
        environment={"torch": "2.15.0"},
        tool={"name": "vbdguard", "version": "0.1.0"},
    )
    return replace(report, **changes)


@settings(max_examples=60)
@given(reports())
def test_every_report_is_valid_against_the_schema(report: ScanReport) -> None:
    VALIDATOR.validate(json.loads(report.to_json()))


@settings(max_examples=60)
@given(reports())
def test_json_gives_back_the_same_report_and_the_same_bytes(report: ScanReport) -> None:
    text = report.to_json()
    again = ScanReport.from_json(text)
    assert again == report
    assert again.to_json() == text
    assert text.isascii()
    assert text == json.dumps(report.to_dict(), indent=2) + "\n"


def test_many_flagged_samples_stand_in_json_as_the_library_writes_them() -> None:
    keys = ["},\n      {", '  "flagged": [],', '\n  "flagged": [],\n', "plain", "\ud800"]
    flagged = tuple(FlaggedSample(key, DIGEST, 0, 0.5, None) for key in keys)
    report = small_report(flagged=flagged)
    assert report.to_dict() == json.loads(json.dumps({k: v for k, v in asdict(report).items() if k != "from_cache"}))
    assert report.to_json() == json.dumps(report.to_dict(), indent=2) + "\n"


def test_schema_is_itself_a_valid_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(report_schema())


LATER = {"kept_scores", "gradient_png", "artefact"}
"""What the first reports of version 1 did not say."""


def test_a_report_from_before_the_later_fields_is_read_as_one_without_them() -> None:
    report = small_report()
    body = json.loads(report.to_json())
    for entry in body["classes"]:
        del entry["kept_scores"], entry["artefact"]
        if entry["trigger"] is not None:
            del entry["trigger"]["gradient_png"]
    jsonschema.validate(body, report_schema())
    assert ScanReport.from_dict(body) == report


@pytest.mark.parametrize("counts", [[1] * 19, [1] * 20, [-1, 1, *[0] * 18]])
def test_a_histogram_counts_the_kept_samples_in_twenty_bins(counts: list[int]) -> None:
    entry = small_report().classes[0]
    kept = entry.samples - entry.flagged
    assert replace(entry, kept_scores=(kept, *[0] * 19)).kept_scores is not None
    assert sum(counts) != kept
    with pytest.raises(ValueError, match="kept_scores must be 20 counts"):
        replace(entry, kept_scores=tuple(counts))


def test_schema_names_every_field_of_the_report_and_no_other() -> None:
    definitions = report_schema()["$defs"]
    body = asdict(small_report(skipped=(SkippedSample("k", "r", "d"),), status="incomplete"))
    pairs = [
        (report_schema(), {k: v for k, v in body.items() if k != "from_cache"}),
        (definitions["dataset"], body["dataset"]),
        (definitions["shard"], body["dataset"]["shards"][0]),
        (definitions["class"], body["classes"][0]),
        (definitions["trigger"], body["classes"][0]["trigger"]),
        (definitions["flagged"], body["flagged"][0]),
        (definitions["skipped"], body["skipped"][0]),
    ]
    for schema, fields in pairs:
        assert set(schema["properties"]) == set(fields)
        assert set(schema["required"]) == set(fields) - LATER
        assert schema["additionalProperties"] is False
    assert set(definitions["timings"]["properties"]) == {*STAGES, "total"}


# each edit makes a report that no scan could have made; loader and schema must both notice
BROKEN: list[tuple[str, Callable[[Any], Any], str]] = [
    ("field missing", lambda b: b.pop("device"), "missing device"),
    ("field surplus", lambda b: b.update(extra=1), "unknown 'extra'"),
    ("nested field missing", lambda b: b["classes"][1].pop("p_value"), r"classes\[1\]: missing p_value"),
    ("nested field surplus", lambda b: b["flagged"][0].update(x=1), r"flagged\[0\]: unknown 'x'"),
    ("text for a number", lambda b: b["classes"][0].update(p_value="x"), r"classes\[0\].p_value: expected a number"),
    ("number for a text", lambda b: b.update(device=3), "device: expected a string, got 3"),
    ("true for a count", lambda b: b["dataset"].update(samples=True), "samples: expected a whole number, got True"),
    ("list for an object", lambda b: b.update(dataset=[]), "dataset: expected an object"),
    ("object for a list", lambda b: b.update(flagged={}), "flagged: expected a list"),
    ("null where needed", lambda b: b["dataset"].update(digest=None), "digest: expected a string, got None"),
    ("unknown verdict", lambda b: b.update(verdict="fine"), "verdict: expected one of 'clean', 'poisoned'"),
    ("short shape", lambda b: b["dataset"].update(image_shape=[32, 32]), "image_shape: expected 3 values, got 2"),
    ("score above 1", lambda b: b["flagged"][0].update(score=1.5), r"score must be in \[0, 1\]"),
    ("digest not hex", lambda b: b["flagged"][0].update(digest="zz"), "64 hexadecimal digits"),
    ("negative bbox", lambda b: b["classes"][0]["trigger"].update(bbox=[-1, 0, 3, 3]), "bbox must be"),
    ("blend factor 0", lambda b: b["classes"][0]["trigger"].update(blend_factor=0), "blend_factor must be"),
    ("unknown stage", lambda b: b["timings"].update(lunch=1.0), "unknown stage 'lunch'"),
]


@pytest.mark.parametrize(("edit", "message"), [b[1:] for b in BROKEN], ids=[b[0] for b in BROKEN])
def test_a_broken_report_is_refused_with_the_place(edit: Callable[[Any], Any], message: str) -> None:
    body = json.loads(small_report().to_json())
    edit(body)
    with pytest.raises(ReportError, match=message):
        ScanReport.from_json(json.dumps(body))
    assert not VALIDATOR.is_valid(body)


CONTRADICTIONS: list[tuple[str, Callable[[Any], Any], str]] = [
    ("clean verdict over a poisoned class", lambda b: b.update(verdict="clean"), "verdict is 'clean'"),
    ("poisoned verdict over nothing", lambda b: b["classes"][0].update(poisoned=False), "verdict is 'poisoned'"),
    (
        "complete although a sample was skipped",
        lambda b: b["skipped"].append({"key": "k", "reason": "truncated", "detail": ""}),
        "could not be read",
    ),
    (
        "complete although a shard was not read to its end",
        lambda b: b["dataset"]["shards"][0].update(status="incomplete"),
        "could not be read",
    ),
    ("more flagged than there are", lambda b: b["classes"][0].update(flagged=11), "flagged must be 0 to"),
]


@pytest.mark.parametrize(("edit", "message"), [c[1:] for c in CONTRADICTIONS], ids=[c[0] for c in CONTRADICTIONS])
def test_a_report_that_contradicts_itself_is_refused(edit: Callable[[Any], Any], message: str) -> None:
    body = json.loads(small_report().to_json())
    edit(body)
    with pytest.raises(ReportError, match=message):
        ScanReport.from_dict(body)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "as JSON"),
        ("{", "as JSON"),
        ("[]", "got list"),
        ("[" * 100_000, "as JSON"),
        ('{"schema_version": 2}', "schema_version 1, got 2"),
        ("{}", "got None"),
    ],
    ids=["empty", "cut", "list", "deeply nested", "later version", "no version"],
)
def test_what_is_not_a_report_is_refused(text: str, message: str) -> None:
    with pytest.raises(ReportError, match=message):
        ScanReport.from_json(text)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999"])
def test_numbers_that_are_none_are_refused(number: str) -> None:
    text = small_report().to_json().replace('"score": 0.97', f'"score": {number}')
    assert number in text
    with pytest.raises(ReportError):
        ScanReport.from_json(text)


def test_a_digest_that_ends_in_a_newline_is_refused() -> None:
    with pytest.raises(ValueError, match="64 hexadecimal digits"):
        FlaggedSample("k", DIGEST + "\n", 0, 0.5, None)


@pytest.mark.parametrize("score", [math.nan, math.inf, -0.1, 1.1])
def test_a_score_outside_its_range_cannot_be_made(score: float) -> None:
    with pytest.raises(ValueError, match="score"):
        FlaggedSample("k", DIGEST, 0, score, None)


def test_settings_are_kept_as_json_gives_them_back() -> None:
    report = small_report(config={"image_size": (32, 32)})
    assert report.config == {"image_size": [32, 32]}


def test_settings_that_json_cannot_hold_are_refused() -> None:
    with pytest.raises(ValueError, match="JSON"):
        small_report(config={"lr": math.nan})


def test_where_findings_came_from_is_not_part_of_them() -> None:
    report = small_report()
    loaded = replace(report, from_cache=True)
    assert loaded == report
    assert "from_cache" not in loaded.to_json()


@pytest.mark.parametrize(
    ("verdict", "status", "fail_on", "code"),
    [
        ("clean", "complete", "poisoned", 0),
        ("clean", "incomplete", "poisoned", 2),
        ("poisoned", "complete", "poisoned", 1),
        ("poisoned", "incomplete", "poisoned", 1),
        ("poisoned", "complete", "never", 0),
        ("poisoned", "incomplete", "never", 2),
        ("clean", "incomplete", "never", 2),
    ],
)
def test_findings_outrank_unreadable_data_which_outranks_clean(
    verdict: str, status: str, fail_on: Any, code: int
) -> None:
    changes: dict[str, Any] = {"verdict": verdict, "status": status}
    if verdict == "clean":
        changes |= {"classes": (), "flagged": ()}
    assert small_report(**changes).exit_code(fail_on=fail_on) == code
