"""How much could not be read, and what of it is accepted."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vbdguard.report import DatasetReport, ScanReport, ShardReport, SkippedSample
from vbdguard.unreadable import Unread, is_accepted

DIGEST = "0123456789abcdef" * 4


def report(*, read: int, skipped: tuple[str, ...] = (), shards: tuple[str, ...] = ("complete",) * 4) -> ScanReport:
    """A report on shards `0` to `n - 1`; entries are `SHARD` for a whole one, `SHARD/SAMPLE` for a sample."""
    whole = not skipped and set(shards) == {"complete"}
    entries = tuple(ShardReport(str(n), DIGEST, 1, status) for n, status in enumerate(shards))  # type: ignore[arg-type]
    return ScanReport(
        status="complete" if whole else "incomplete",
        verdict="clean",
        dataset=DatasetReport(DIGEST, ("data/",), read, 2, (8, 8, 3), entries),
        config={},
        seed=0,
        device="cpu",
        classes=(),
        flagged=(),
        skipped=tuple(SkippedSample(key, "undecodable", "broken") for key in skipped),
        timings={},
        environment={},
        tool={"name": "vbdguard", "version": "0.1.0"},
    )


@pytest.mark.parametrize(
    ("found", "percent"),
    [
        (report(read=100), 0.0),
        (report(read=99, skipped=("0/a",)), 1.0),
        (report(read=98, skipped=("0/a", "3/b"), shards=("incomplete", "complete", "complete", "incomplete")), 2.0),
        (report(read=75, skipped=("2",), shards=("complete", "complete", "unreadable", "complete")), 25.0),
        (report(read=80, skipped=("2",), shards=("complete", "complete", "incomplete", "complete")), 25.0),
        (report(read=98, skipped=("0/a", "1/b", "2"), shards=("incomplete", "incomplete", "unreadable")), 100 / 3),
        (report(read=0, skipped=tuple(f"0/{n}" for n in range(5))), 100.0),
    ],
    ids=["nothing", "a sample", "two samples", "a lost shard", "a broken shard", "both", "everything"],
)
def test_the_larger_share_of_samples_and_shards_counts(found: ScanReport, percent: float) -> None:
    assert Unread.of(found).percent == pytest.approx(percent)
    assert is_accepted(found, percent)
    assert is_accepted(found, percent - 0.1) == (found.status == "complete")


def test_nothing_unreadable_is_accepted_unasked() -> None:
    assert not is_accepted(report(read=10**9, skipped=("0/a",)), 0)
    assert is_accepted(report(read=1), 0)


def test_two_shards_of_one_name_are_no_cover_for_a_lost_one() -> None:
    found = report(read=10, skipped=("0",), shards=("complete", "unreadable"))
    same = replace(
        found, dataset=replace(found.dataset, shards=tuple(replace(s, name="0") for s in found.dataset.shards))
    )
    assert Unread.of(same).shards == 1
    assert not is_accepted(same, 40)


def test_the_words_give_both_counts() -> None:
    words = str(Unread.of(report(read=1998, skipped=("0/a", "1/b"))))
    assert words == "2 of 2,000 samples and 0 of 4 shards could not be read (0.1 %)"
