"""What a scan will take, told before it starts: `vbdguard scan --dry-run`.

How many samples there are and how long one takes to read is measured on a few shards of the data, here and now. What
follows from it, stages 1 to 6, memory and disk, is reckoned with the constants below; each says where it was measured.
They are ranges, and honest ones: figures of one machine are no promise on another.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from scipy.optimize import brentq

from vbdguard.config import DirectMethodConfig, ScanConfig
from vbdguard.engines.base import WorkerDied
from vbdguard.ingest.looking import ShardLook, look_at, shard_bytes
from vbdguard.ingest.reader import engine_for
from vbdguard.ingest.sizing import Votes, canonical_size
from vbdguard.sources.base import Shard, Source
from vbdguard.sources.opening import open_source

LOOKED_AT = 8
"""Shards that are looked at, spread evenly over all."""
MEASURED_SIZES = 2000
"""Files whose size is asked for, at most; each costs a request where they are remote."""

READING_OVERHEAD = (1.0, 2.0)
"""Time of reading against that of the look, for each process: `benchmarks/README.md` has ingest at 58 to 75 % of the
pace of plain decoding; the look lacks the writing, and has the machine to itself."""
PROCESS_SECONDS = (0.3, 3.0)
"""Until the processes that read are up: 0.9 s in scans of 2 MB in ten shards, with two processes."""
CLUSTER_SECONDS = (3.0, 20.0)
"""Until a Ray cluster of our own is up: 11 to 15 s on a machine with other work; how long without was not measured."""
START_SECONDS = (2.0, 45.0)
"""What judging takes of any data: torch, and models that are trained for so many steps however few the samples. 17 s
for 160 samples and 37 s for 1,000 on a machine with twice as much to do as it has cores, a start of 6.5 to 10.4 s cold
(`benchmarks/README.md`)."""
FIT_SECONDS_PER_MEGAPIXEL = (0.4, 2.5)
"""Stages 1 to 6 of preset `default` on the sample that it is fitted on, on two cores without a GPU: 0.55 (CIFAR-10) and
0.5 (100 classes of Tiny ImageNet) with one class poisoned, 0.9 and 1.25 with all (`benchmarks/README.md`); twice that
beside other work."""
FIT_SECONDS_PER_CLASS = (0.05, 0.5)
"""The same for each class: 0.1 s between 100 and 1,000 classes of the same 50,000 samples of 32 x 32, clean; twice that
beside other work, and more looks at classes that are poisoned."""
PASS_SECONDS_PER_MEGAPIXEL = (0.015, 0.05)
"""To bring samples beyond the fit's from the store once, on one core: 15 to 25 microseconds for 32 x 32 pixels, 100,000
and 400,000 samples in 20 and 80 segments; doubled for more segments and for a cold disk."""
SCORE_SECONDS_PER_MEGAPIXEL = (0.0, 2.0)
"""To judge samples beyond the fit's: nothing where no class is accused, else those of accused classes by two models, of
which one took 0.44 to 0.78 ms for 32 x 32 pixels on cores with other work."""
BASE_BYTES = (550 << 20, 850 << 20)
"""Python with torch: 620 MB in `benchmarks/README.md`, 802 MB at the peak of a scan of 1,000 samples."""
FIT_BYTES_PER_PIXEL_BYTE = (1.7, 4.0)
"""1,046 MB with 154 MB of pixels in the fit, 1,244 MB with 307 MB, 2,210 and 2,978 MB with 614 MB of 100 classes
(`benchmarks/README.md`), less the base."""
SAMPLE_BYTES = (100, 300)
"""Memory for each sample whose pixels stay on disk, for digests, keys and labels: 104 to 197 bytes held with keys of 27
letters and up to 260 while they are sorted; 100,000 and 400,000 samples."""
READER_BYTES = (60 << 20, 160 << 20)
"""Memory of each process that reads, less what is its shard's own, which `--worker-memory` bounds."""
STORED_BYTES = (45, 120)
"""Disk for each sample besides its pixels: 50 bytes with keys of 11 letters; keys count in full."""

Range = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a scan will take; of each range the lower and the upper end."""

    shards: int
    source_bytes: tuple[int, int] | None
    """Of all shards; None where nobody tells."""
    samples: tuple[int, int]
    classes: tuple[int, int]
    """As named by the source, else as many as were seen, and as many as those may stand for."""
    image_size: tuple[int, int]
    """Canonical height and width; unless named, as the shards that were looked at elect it."""
    reading_seconds: Range
    judging_seconds: Range | None
    """On two cores without a GPU; None where that was never measured."""
    memory_bytes: tuple[int, int] | None
    """At the peak, all processes together; None where that was never measured."""
    disk_bytes: tuple[int, int]
    """In the cache; of partial scans, their files take as much again."""
    looked_at: int
    """Samples that were looked at."""
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON-ready dicts and lists."""
        return {"estimate_version": 1, **asdict(self)}


def estimate(source: Any, config: ScanConfig | None = None) -> Estimate:
    """Return what a scan of a source will take; nothing is written.

    Args:
        source: as `vbdguard.scan` takes it.
        config: settings.

    Raises:
        SourceError: if the source cannot be understood.
    """
    config = config or ScanConfig()
    opened = open_source(
        source, label_key=config.label_key, folder_rule=config.folder_rule, run_commands=config.run_commands
    )
    looks = _looks(opened, config)
    size = config.canonical_size or canonical_size(_votes(looks))
    total, is_exact = _source_bytes(opened.shards, looks)
    samples = _samples(opened.shards, looks, total)
    notes = []
    if not any(look.samples for look in looks):
        notes.append("none of the shards that were looked at could be read")
    if total is None and not all(look.is_whole for look in looks):
        notes.append("nobody tells how many samples there are; all figures are for those that were looked at")
    if not is_exact:
        notes.append("the sizes of some shards are extrapolated")
    if config.engine == "ray":
        notes.append("time and memory of reading are those of this machine; a Ray cluster divides the time")
    classes = _classes(opened, samples, looks)
    judging, memory = _judging(config, samples, classes, size), _memory(config, samples, classes, size)
    if judging is None:
        notes.append("judging was measured without a GPU, and for preset default, only")
    return Estimate(
        shards=len(opened.shards),
        source_bytes=total,
        samples=samples,
        classes=classes,
        image_size=size,
        reading_seconds=_reading(config, samples, looks, is_apart=opened.is_picklable),
        judging_seconds=judging,
        memory_bytes=memory,
        disk_bytes=_whole(_times(samples, _shifted(STORED_BYTES, _pixel_bytes(size)))),
        looked_at=sum(look.samples for look in looks),
        notes=tuple(notes),
    )


def _looks(source: Source, config: ScanConfig) -> list[ShardLook]:
    """Look at some shards, in processes of this machine with the usual limits."""
    count = len(source.shards)
    places = sorted({place * count // LOOKED_AT for place in range(LOOKED_AT)}) if count else []
    one = partial(look_at, size=config.canonical_size)
    # One at a time: the look measures how long a sample takes on a core that has it to itself.
    engine = engine_for(source, "local", jobs=1, limits=config.reading_limits)
    with engine as workers, closing(workers.map(one, [source.shards[place] for place in places])) as done:
        return [look for _, look in done if not isinstance(look, WorkerDied)]


def _votes(looks: Sequence[ShardLook]) -> Votes:
    return sum((look.votes for look in looks), Counter())


def _source_bytes(shards: Sequence[Shard], looks: Sequence[ShardLook]) -> tuple[tuple[int, int] | None, bool]:
    """Return the bytes of all shards, and whether they were all asked for."""
    step = max(1, math.ceil(len(shards) / MEASURED_SIZES))
    asked = [shard_bytes(shard) for shard in shards[::step]]
    known = [size for size in asked if size is not None]
    if known:
        mean = sum(known) / len(known)
        total = sum(known) if step == 1 and len(known) == len(shards) else round(mean * len(shards))
        return (total, total), step == 1 and len(known) == len(shards)
    files = _counted(shards)
    seen = [look for look in looks if look.samples]
    if files is None or not seen:
        return None, True
    if sum(look.samples for look in looks) == files:
        seen_bytes = sum(look.image_bytes for look in looks)
        return (seen_bytes, seen_bytes), True
    means = [look.image_bytes / look.samples for look in seen]
    return _whole((files * min(means), files * max(means))), False


def _counted(shards: Sequence[Shard]) -> int | None:
    """Return how many samples the shards hold, where they know without being read: slices of a folder."""
    listed = [getattr(shard, "files", None) for shard in shards]
    return sum(len(files) for files in listed if files) if shards and all(listed) else None


def _samples(shards: Sequence[Shard], looks: Sequence[ShardLook], total: tuple[int, int] | None) -> tuple[int, int]:
    """Return how many samples there are: counted where possible, else from the bytes that a sample takes."""
    counted = _counted(shards)
    if counted is not None:
        return counted, counted
    if len(looks) == len(shards) and all(look.is_whole for look in looks):
        seen = sum(look.samples for look in looks)
        return seen, seen
    densities = [density for look in looks for density in _densities(look)]
    if total is not None and densities:
        return _whole((total[0] * min(densities), total[1] * max(densities)))
    each = [look.samples for look in looks]
    if all(look.is_whole for look in looks):
        return len(shards) * min(each, default=0), len(shards) * max(each, default=0)
    return sum(each), sum(each)


def _densities(look: ShardLook) -> tuple[float, ...]:
    """Return samples for each byte of a file, between which the truth lies."""
    if not look.samples or not look.size:
        return ()
    if look.is_whole:
        return (look.samples / look.size,)
    mean = look.image_bytes / look.samples
    # A tar adds up to 2.5 kB to an image, for two headers, padding and the label; a compressed file takes less than it.
    return 1 / (mean + 2560), 1 / max(1.0, mean)


def _reading(config: ScanConfig, samples: tuple[int, int], looks: Sequence[ShardLook], *, is_apart: bool) -> Range:
    paces = [look.seconds / look.decoded for look in looks if look.decoded]
    if not paces:
        return 0.0, 0.0
    at_once = config.local_jobs if is_apart else 1
    start = (0.0, 0.0) if not is_apart else CLUSTER_SECONDS if config.engine == "ray" else PROCESS_SECONDS
    low, high = _times((samples[0] * min(paces) / at_once, samples[1] * max(paces) / at_once), READING_OVERHEAD)
    return _rounded((start[0] + low, start[1] + high))


def _classes(source: Source, samples: tuple[int, int], looks: Sequence[ShardLook]) -> tuple[int, int]:
    """Return how many classes there are: named, or seen, where the upper end takes all for equally frequent.

    Of K such classes n samples show K (1 - exp(-n / K)).
    """
    if source.class_names:
        return len(source.class_names), len(source.class_names)
    seen, n = len(set().union(*(look.labels for look in looks))), sum(look.samples for look in looks)
    if n >= samples[1] or not seen:
        return seen, seen
    most = n * n / 2  # from where on no class twice is no surprise
    if seen < n:
        most = brentq(lambda classes: classes * -math.expm1(-n / classes) - seen, seen / 2, n * n)
    return seen, max(seen, min(round(most), samples[1]))


def _fit_samples(
    config: DirectMethodConfig, samples: tuple[int, int], classes: tuple[int, int], size: tuple[int, int]
) -> tuple[int, int]:
    """Return how many samples preset `default` is fitted on."""
    room = (config.sample.megabytes << 20) // _pixel_bytes(size)
    return min(samples[0], config.sample.per_class * max(1, classes[0]), room), min(samples[1], room)


def _judging(
    config: ScanConfig, samples: tuple[int, int], classes: tuple[int, int], size: tuple[int, int]
) -> Range | None:
    if config.device not in ("auto", "cpu") or not isinstance(config.method, DirectMethodConfig):
        return None
    megapixels = size[0] * size[1] / 1e6
    fitted = _fit_samples(config.method, samples, classes, size)
    # All samples are looked at once more for the means of their classes, those of accused classes once more to score.
    beyond = (max(0, samples[0] - fitted[1]), max(0, samples[1] - fitted[0]))
    ends = []
    for end in (0, 1):
        judged = fitted[end] * FIT_SECONDS_PER_MEGAPIXEL[end] + beyond[end] * SCORE_SECONDS_PER_MEGAPIXEL[end]
        passes = (1, 2)[end] * samples[end] * PASS_SECONDS_PER_MEGAPIXEL[end] if beyond[end] else 0.0
        once = START_SECONDS[end] + classes[end] * FIT_SECONDS_PER_CLASS[end]
        ends.append(once + megapixels * (judged + passes))
    return _rounded(ends)


def _memory(
    config: ScanConfig, samples: tuple[int, int], classes: tuple[int, int], size: tuple[int, int]
) -> tuple[int, int] | None:
    if not isinstance(config.method, DirectMethodConfig):
        return None
    fitted = _fit_samples(config.method, samples, classes, size)
    judging = [
        BASE_BYTES[end]
        + fitted[end] * _pixel_bytes(size) * FIT_BYTES_PER_PIXEL_BYTE[end]
        + samples[end] * SAMPLE_BYTES[end]
        for end in (0, 1)
    ]
    # The processes that read are gone before the fit begins.
    reading = [config.local_jobs * READER_BYTES[end] + samples[end] * SAMPLE_BYTES[end] for end in (0, 1)]
    return _whole((max(judging[0], reading[0]), max(judging[1], reading[1])))


def _pixel_bytes(size: tuple[int, int]) -> int:
    return size[0] * size[1] * 3


def _shifted(ends: tuple[int, int], by: int) -> tuple[int, int]:
    return ends[0] + by, ends[1] + by


def _times(one: Range, other: Range) -> Range:
    return one[0] * other[0], one[1] * other[1]


def _whole(ends: Range) -> tuple[int, int]:
    return math.floor(ends[0]), math.ceil(ends[1])


def _rounded(ends: Sequence[float]) -> Range:
    low, high = ends
    return round(low, 1), round(high, 1)
