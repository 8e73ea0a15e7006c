"""What becomes of one sample of a stream: passes, is flagged, or has never been scanned.

`Screen` holds what every process of a training needs to know; it pickles as two file names and two words.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vbdguard.cache import Cache
from vbdguard.config import ScanConfig
from vbdguard.errors import UnscannedSampleError, VBDGuardError
from vbdguard.guards.counts import DropCounts
from vbdguard.guards.digest_table import PASSES, UNKNOWN, DigestTable, LabelChange
from vbdguard.guards.policy import GuardWarning, Policy
from vbdguard.guards.tally import PassCount, Tally
from vbdguard.ingest.digest import sample_digest
from vbdguard.report import ScanReport
from vbdguard.sources.base import RawSample

logger = logging.getLogger(__name__)

CHANGED_SHARD = (
    "its shard was changed or added since, or is read otherwise than it was scanned. Scan and guard it as it is now"
)
_DROPS_IN_A_ROW = 100_000
"""An endless stream of which nothing passes would otherwise hang the training."""


@dataclass(frozen=True, slots=True)
class Relabelled:
    """The verdict on a flagged sample that is to be handed on under another class."""

    label: int | str
    """The new class, a name where the sample's label is one."""


class Screen:
    """The decision on samples by their digests, the same in every process.

    Args:
        table: what the scan has seen.
        policy: what to do about the rest.
        name: the stream, for messages.
        shows_names: whether counts are under class names.
        advice: what an unscanned sample most likely means, for messages.
    """

    def __init__(self, table: DigestTable, policy: Policy, *, name: str, shows_names: bool, advice: str) -> None:
        self.table = table
        self.policy = policy
        self.name = name
        self.advice = advice
        classes = sorted({(change.old_label, change.old_name) for change in table.changes})
        self.tally = Tally(classes, shows_names=shows_names)

    def knows(self, raw: RawSample) -> bool:
        """Return whether a scan has seen a sample."""
        return self.table.find(sample_digest(raw.image, raw.label)) != UNKNOWN

    def new_label(self, raw: RawSample) -> int | str | None:
        """Return the class that the scan suggests for a flagged sample under on_poison="relabel", else None."""
        mark = self.table.find(sample_digest(raw.image, raw.label))
        if mark in (PASSES, UNKNOWN) or self.policy.on_poison != "relabel":
            return None
        change = self.table.changes[mark - 1]
        return change.new_name if isinstance(raw.label, str) else change.new_label

    def unscanned_error(self, key: str, why: str) -> UnscannedSampleError:
        """Return the error that stops training at a sample that no scan has seen."""
        return UnscannedSampleError(
            f'{self.describe(key, why)}; {self.advice}, or pass on_unscanned="drop" to train without such samples'
        )

    def describe(self, key: str, why: str) -> str:
        """Return what is to be said of a sample that no scan has seen."""
        return f"{self.name}: sample {key} is not among the {len(self.table)} that were scanned ({why})"

    def begin(self) -> Pass:
        """Begin a pass over the stream in this process."""
        return Pass(self, self.tally.begin())


class Pass:
    """One pass over a stream: decides on its samples and counts them.

    Args:
        screen: what is known.
        count: where to count.
    """

    __slots__ = ("_count", "_drops", "_find", "_has_warned", "_numbers", "_screen")

    def __init__(self, screen: Screen, count: PassCount) -> None:
        self._screen = screen
        self._count = count
        self._numbers = count.numbers
        self._find = screen.table.find
        self._has_warned = False
        self._drops = 0

    def mark(self, digest: bytes | None) -> int:
        """Return what the table knows of a digest (see `DigestTable.find`); UNKNOWN for None."""
        return UNKNOWN if digest is None else self._find(digest)

    def count_passed(self) -> None:
        """Count a sample that is handed on."""
        self._numbers[PassCount.PASSED] += 1
        self._drops = 0

    def admit(self, raw: RawSample) -> bool | Relabelled:
        """Return whether a sample passes as it is, or its new class.

        Raises:
            UnscannedSampleError: if no scan has seen it and the policy is to raise.
        """
        mark = self._find(sample_digest(raw.image, raw.label))
        if mark == PASSES:
            self.count_passed()
            return True
        if mark == UNKNOWN:
            return self.admit_unscanned(raw.key, f"no scan has seen its bytes with the label {raw.label!r}")
        return self._admit_flagged(raw, self._screen.table.changes[mark - 1])

    def admit_unscanned(self, key: str, why: str) -> bool:
        """Return whether a sample passes that no scan has seen; `key` names shard and sample.

        Raises:
            UnscannedSampleError: if the policy is to raise.
        """
        self._numbers[PassCount.UNSCANNED] += 1
        policy = self._screen.policy.on_unscanned
        if policy == "raise":
            raise self._screen.unscanned_error(key, why)
        if not self._has_warned:
            self._has_warned = True
            found = self._screen.describe(key, why)
            _say(policy, f"{found}; on_unscanned={policy!r}; further ones of this pass are only counted")
        if policy == "drop":
            return self._drop()
        self._numbers[PassCount.PASSED] += 1
        return True

    def _admit_flagged(self, raw: RawSample, change: LabelChange) -> bool | Relabelled:
        is_name = isinstance(raw.label, str)
        policy = self._screen.policy.on_poison
        new = change.new_name if is_name else change.new_label
        if policy == "relabel" and new is not None:
            self._count.relabelled(raw.label)
            self._numbers[PassCount.PASSED] += 1
            return Relabelled(new)
        if policy == "warn":
            self._count.let_pass(raw.label)
            self._numbers[PassCount.PASSED] += 1
            return True
        self._count.dropped(raw.label)
        return self._drop()

    def _drop(self) -> bool:
        self._drops += 1
        if self._drops > _DROPS_IN_A_ROW + len(self._screen.table):
            raise UnscannedSampleError(
                f"{self._screen.name}: expected some sample to pass, {self._drops} in a row were dropped; "
                "all of this stream is flagged or unscanned: look at the report, and scan it as it is now"
            )
        return False


def _say(policy: str, message: str) -> None:
    if policy == "warn":
        warnings.warn(message, GuardWarning, stacklevel=2)
    else:
        logger.warning("%s", message)


class StreamRecord:
    """Report and counts of a guarded stream, which stands there as `.vbdguard`.

    Args:
        report: the scan's outcome.
        tally: what the guard has counted.
    """

    def __init__(self, report: ScanReport, tally: Tally) -> None:
        self._report: ScanReport | None = report
        self._tally = tally

    @property
    def report(self) -> ScanReport:
        """The scan's outcome; stays in the process that called guard(), since it can be large."""
        if self._report is None:
            raise VBDGuardError("the report stays in the process that called vbdguard.guard(); read it there")
        return self._report

    @property
    def counts(self) -> DropCounts:
        """What the guard has done so far in all workers; `vbdguard.guards.tally` says what an epoch is."""
        return self._tally.counts

    def __getstate__(self) -> dict[str, Any]:
        return {"_report": None, "_tally": self._tally}

    # Only what leaves the process leaves the report behind; nothing in a record changes, so its copies are itself.
    def __copy__(self) -> StreamRecord:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> StreamRecord:
        return self


def make_screen(
    report: ScanReport,
    digests: NDArray[np.uint8],
    policy: Policy,
    *,
    name: str,
    cache_dir: Path | None,
    advice: str = CHANGED_SHARD,
) -> Screen:
    """Return the screen that a report means, after the policy has had its say about the report as a whole.

    Args:
        report: the scan's outcome.
        digests: uint8 (N, 32) ascending, what it has seen.
        policy: what to do about poison and unscanned samples.
        name: the stream, for messages.
        cache_dir: where the table is kept; None takes the default place.
        advice: what an unscanned sample most likely means, for messages.

    Raises:
        PoisonFoundError: if the policy is to raise and there is poison.
        UnscannedSampleError: if the policy is to raise and something could not be scanned.
        CacheError: if the table cannot be written.
    """
    policy.meet_poison(report, name=name, flagged=len(report.flagged))
    policy.meet_unscanned(report.skipped, name=name)
    cache = Cache(cache_dir)
    cache.prepare()
    table = DigestTable.write(cache.tables_dir, digests, list(_changes(report)))
    # Where a source knows numbers only, the names are those numbers as text.
    shows_names = any(entry.name != str(entry.label) for entry in report.classes)
    return Screen(table, policy, name=name, shows_names=shows_names, advice=advice)


def _changes(report: ScanReport) -> Sequence[tuple[bytes, LabelChange]]:
    names = {entry.label: entry.name for entry in report.classes}
    return [
        (
            bytes.fromhex(entry.digest),
            LabelChange(
                entry.label,
                names[entry.label],
                entry.suggested_label,
                None if entry.suggested_label is None else names[entry.suggested_label],
            ),
        )
        for entry in report.flagged
    ]


def scanned(
    source: Any, config: ScanConfig | None, report: ScanReport | None, *, name: str, cache_dir: Path | None
) -> tuple[ScanReport, NDArray[np.uint8]]:
    """Return the report on a source and the digests (N, 32), ascending, that it speaks of.

    Args:
        source: what `vbdguard.scan` takes.
        config: settings of the scan.
        report: the outcome of an earlier scan; then the data are only read and hashed.
        name: the stream, for messages.
        cache_dir: where reports, pixels and tables are kept; None takes the default place.

    Raises:
        UnscannedSampleError: if `report` speaks of other data.
        SourceError: if the source cannot be understood.
    """
    if report is None:
        from vbdguard.scanner import scan_with_digests

        outcome = scan_with_digests(source, config, cache_dir=cache_dir)
        return outcome.report, outcome.digests
    from vbdguard.ingest.reader import ingest

    cache = Cache(cache_dir)
    cache.prepare()
    settings = config or ScanConfig(label_key=report.config.get("label_key"))
    height, width, _ = report.dataset.image_shape
    ingested = ingest(
        source,
        store_dir=cache.store_dir,
        image_size=(height, width),
        label_key=settings.label_key,
        engine=settings.engine,
        jobs=settings.reading_jobs,
        limits=settings.reading_limits,
        check_pixels=False,
    )
    if ingested.dataset_digest != report.dataset.digest:
        raise UnscannedSampleError(
            f"{name}: expected the {report.dataset.samples} samples that the report speaks of (dataset digest "
            f"{report.dataset.digest[:16]}), got {len(ingested.store)} with digest {ingested.dataset_digest[:16]}; "
            "scan these shards as they are now, or leave report= out"
        )
    return report, ingested.store.digests
