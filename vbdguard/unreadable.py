"""How much of a data set could not be read, and whether that much is accepted."""

from __future__ import annotations

from dataclasses import dataclass

from vbdguard.report import ScanReport


@dataclass(frozen=True, slots=True)
class Unread:
    """What a report had to leave out, next to all that there is."""

    samples: int
    """Samples that could not be read, in shards that were read to their end or up to a break."""
    all_samples: int
    shards: int
    """Shards that were lost or broke off: nobody knows how many samples those held."""
    all_shards: int

    @classmethod
    def of(cls, report: ScanReport) -> Unread:
        """Return what a report had to leave out."""
        names = {shard.name for shard in report.dataset.shards}
        broken = {entry.key for entry in report.skipped if entry.key in names}
        broken |= {shard.name for shard in report.dataset.shards if shard.status == "unreadable"}
        samples = sum(entry.key not in names for entry in report.skipped)
        return cls(samples, report.dataset.samples + samples, len(broken), len(report.dataset.shards))

    @property
    def percent(self) -> float:
        """The larger of the two shares, that of samples and that of shards, 0 to 100."""
        shares = (self.samples, self.all_samples), (self.shards, self.all_shards)
        return max(100 * part / whole if whole else 0.0 for part, whole in shares)

    def __str__(self) -> str:
        return (
            f"{self.samples:,} of {self.all_samples:,} samples and {self.shards:,} of {self.all_shards:,} shards could "
            f"not be read ({self.percent:.3g} %)"
        )


def is_accepted(report: ScanReport, percent: float) -> bool:
    """Return whether everything could be read, or no larger share of samples and of shards is missing than this.

    A shard of which nobody knows what it held counts as a shard: one of four is a quarter of the data.

    Args:
        report: of a scan.
        percent: 0 to 100; 0 accepts nothing.
    """
    return report.status == "complete" or 0 < Unread.of(report).percent <= percent
