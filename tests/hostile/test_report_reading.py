"""Reports come from files that anybody may have edited: a report, or an error of ours."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hostile_corpus.making import sample, tar
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vbdguard.errors import ReportError
from vbdguard.report import ScanReport

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def whole(report_flagging: Callable[..., ScanReport], tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("report") / "train-000000.tar"
    path.write_bytes(tar([member for n in range(24) for member in sample(f"s{n}", n, n % 2)]))
    return report_flagging(str(path), {"train-000000.tar/s3": None, "train-000000.tar/s5": 0}).to_json()


def read(text: str) -> ScanReport | None:
    try:
        return ScanReport.from_json(text)
    except ReportError:
        return None


@given(st.text(max_size=200) | JSON.map(lambda body: json.dumps(body)))
@settings(max_examples=150, deadline=None)
def test_any_text_is_refused(text: str) -> None:
    assert read(text) is None


@given(st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_edited_report_reads_back_the_same_or_is_refused(whole: str, data: st.DataObject) -> None:
    body: Any = json.loads(whole)
    place = body
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = data.draw(st.sampled_from(keys))
        inner = place[key]
        if not (isinstance(inner, (dict, list)) and inner) or data.draw(st.integers(0, 3)) == 0:
            break
        place = inner
    if isinstance(place, dict) and data.draw(st.booleans()):
        del place[key]
    else:
        place[key] = data.draw(JSON)
    report = read(json.dumps(body))
    assert report is None or ScanReport.from_json(report.to_json()) == report


@pytest.mark.parametrize(
    "text", ["[" * 200_000, '{"a":' * 50_000, '{"schema_version": ' + "9" * 100_000 + "}", "\ud800"]
)
def test_text_that_breaks_parsers_is_refused(text: str) -> None:
    assert read(text) is None
