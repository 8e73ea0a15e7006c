"""SARIF: valid, stable, within GitHub's limits, and nothing in it means more than its text."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import jsonschema
import pytest

from vbdguard.findings import findings_of
from vbdguard.formats.rendering import Extras, render
from vbdguard.formats.sarif import MOST_LOCATIONS, MOST_RESULTS
from vbdguard.report import ScanReport, SkippedSample

SCHEMA = json.loads((Path(__file__).parent / "schemas" / "sarif-2.1.0.json").read_text("utf-8"))
VALIDATOR = jsonschema.Draft4Validator(SCHEMA, format_checker=jsonschema.FormatChecker())

Make = Callable[..., ScanReport]


def run_of(report: ScanReport, extras: Extras | None = None) -> dict[str, Any]:
    body = json.loads(render(report, "sarif", extras))
    VALIDATOR.validate(body)
    (run,) = body["runs"]
    return dict(run)


def uris(result: dict[str, Any]) -> list[str]:
    return [one["physicalLocation"]["artifactLocation"]["uri"] for one in result["locations"]]


def test_the_schema_can_fail(poisoned: ScanReport) -> None:
    body = json.loads(render(poisoned, "sarif"))
    body["runs"][0]["results"][0]["level"] = "fatal"
    assert not VALIDATOR.is_valid(body)


def test_every_report_is_valid(any_report: ScanReport) -> None:
    run = run_of(any_report)
    rules = [rule["id"] for rule in run["tool"]["driver"]["rules"]]
    assert all(rules[result["ruleIndex"]] == result["ruleId"] for result in run["results"])


def test_an_artefact_is_a_note(marked: ScanReport) -> None:
    (result,) = run_of(marked)["results"]
    assert (result["ruleId"], result["level"]) == ("class-artefact", "note")
    assert result["message"]["text"].startswith("Class 2 thing2: a pattern (3 x 3 bottom right) on 80 of 100 samples")


def test_clean_data_have_no_result_so_that_old_alerts_close(clean: ScanReport) -> None:
    assert run_of(clean)["results"] == []


def test_a_finding_is_a_result_per_shard(make_report: Make, make_trigger: Any) -> None:
    report = make_report({3: make_trigger()}, keys=lambda i: f"train-00000{i % 2}.tar/img_{i}")
    first, second = run_of(report)["results"]
    assert (uris(first), uris(second)) == (["shards/train-000000.tar"], ["shards/train-000001.tar"])
    assert first["ruleId"] == "backdoor-trigger"
    assert first["level"] == "error"
    text = first["message"]["text"]
    for part in (
        "Class 3 thing3",
        "8 of 100 samples",
        "p-value 1e-12",
        "shards/train-000000.tar (4)",
        "Next: vbdguard ",
    ):
        assert part in text
    names = [place["fullyQualifiedName"] for place in first["locations"][0]["logicalLocations"]]
    assert names == [f"train-000000.tar/img_{i}" for i in (0, 2, 4, 6)]


def test_fingerprints_stay_while_scores_and_order_change(make_report: Make, make_trigger: Any) -> None:
    report = make_report({3: make_trigger()}, keys=lambda i: f"train-00000{i % 2}.tar/img_{i}")
    # One sample less and other scores, as another device might find.
    flagged = tuple(replace(sample, score=0.6) for sample in report.flagged[:0:-1])
    classes = tuple(replace(one, flagged=one.flagged - one.poisoned) for one in report.classes)
    other = replace(report, flagged=flagged, classes=classes, device="cuda")
    prints = [
        [result["partialFingerprints"]["primaryLocationLineHash"] for result in run_of(one)["results"]]
        for one in (report, other)
    ]
    assert prints[0] == prints[1]
    assert len(set(prints[0])) == 2


def test_the_baselines_fingerprint_is_there_too(poisoned: ScanReport) -> None:
    (finding,) = findings_of(poisoned)
    (result,) = run_of(poisoned)["results"]
    assert result["partialFingerprints"]["vbdguardFinding/v1"] == finding.digest


def test_an_accepted_finding_is_suppressed_with_its_reason(poisoned: ScanReport) -> None:
    (finding,) = findings_of(poisoned)
    (result,) = run_of(poisoned, Extras({finding.digest: "a drill"}))["results"]
    assert result["suppressions"] == [{"kind": "external", "justification": "a drill"}]


def test_unreadable_data_are_results_per_shard_and_reason(make_report: Make) -> None:
    skipped = (
        *(SkippedSample(f"train-000001.tar/{i}", "undecodable", "expected an image") for i in range(7)),
        SkippedSample("train-000001.tar/x", "no-label", "expected a .cls"),
        SkippedSample("train-000000.tar", "truncated", "expected more"),
    )
    run = run_of(make_report(skipped=skipped))
    assert run["invocations"] == [{"executionSuccessful": False}]
    texts = [(uris(result), result["message"]["text"].split(":")[0]) for result in run["results"]]
    assert texts == [
        (["shards/train-000000.tar"], "1 entry could not be read (truncated)"),
        (["shards/train-000001.tar"], "1 entry could not be read (no-label)"),
        (["shards/train-000001.tar"], "7 entries could not be read (undecodable)"),
    ]


def test_github_would_take_a_huge_report(huge: ScanReport) -> None:
    text = render(huge, "sarif")
    results = json.loads(text)["runs"][0]["results"]
    # 8,000 pairs of class and shard are more than GitHub shows: a result per class instead.
    assert len(results) == 1000 <= MOST_RESULTS
    assert all(len(uris(result)) == 8 <= MOST_LOCATIONS for result in results)
    assert len(gzip.compress(text.encode())) < 10_000_000
    VALIDATOR.validate(json.loads(text))


def test_a_name_is_neither_a_link_nor_a_placeholder(make_report: Make, make_trigger: Any) -> None:
    report = make_report({3: make_trigger()}, names=lambda _: "[click](https://x.example) {0} \\")
    (result,) = run_of(report)["results"]
    assert r"\[click\](https://x.example) {{0}} \\" in result["message"]["text"]


@pytest.mark.parametrize(
    ("source", "uri", "base"),
    [
        ("my shards/", "my%20shards/train-000000.tar", "%SRCROOT%"),
        ("./data/{0..9}.tar", "data/train-000000.tar", "%SRCROOT%"),
        ("data/*.tar", "data/train-000000.tar", "%SRCROOT%"),
        ("data/train-000000.tar", "data/train-000000.tar", "%SRCROOT%"),
        ("/data/größe", "file:///data/gr%C3%B6%C3%9Fe/train-000000.tar", None),
        ("s3://bucket/a b/", "s3://bucket/a%20b/train-000000.tar", None),
        ("a:b/", "a%3Ab/train-000000.tar", "%SRCROOT%"),
    ],
)
def test_locations_are_addresses(source: str, uri: str, base: str | None, make_report: Make, make_trigger: Any) -> None:
    (result,) = run_of(make_report({3: make_trigger()}, sources=(source,)))["results"]
    artifact = result["locations"][0]["physicalLocation"]["artifactLocation"]
    assert (artifact["uri"], artifact.get("uriBaseId")) == (uri, base)


def test_a_hostile_name_stays_in_the_path_of_an_address(evil: ScanReport) -> None:
    for result in run_of(evil)["results"]:
        for uri in uris(result):
            parts = urlsplit(uri)
            assert (parts.scheme, parts.netloc, parts.query, parts.fragment) == ("", "", "", "")
            assert uri.isascii()
            assert " " not in uri
            assert unquote(uri)
