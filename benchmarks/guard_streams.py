"""WebDataset shards to measure the guard's overhead on, decoded with Pillow as scripts do.

webdataset_32px      JPEG files of 32 x 32, about 1 kB: reading the tar and decoding cost little, the guard shows most
webdataset_100kb     JPEG files of about 100 kB: what ImageNet's are like; a tenth of the samples
"""

from __future__ import annotations

import io
import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import webdataset as wds
from PIL import Image
from torch.utils.data import DataLoader

import vbdguard
from benchmarks.interleaved import Epoch
from vbdguard.ingest.reader import Ingested, ingest
from vbdguard.report import ClassReport, DatasetReport, FlaggedSample, ScanReport

CLASSES = 10
FLAGGED_EVERY = 10
SHARDS = 4
_PICTURES = 64
"""Different pictures; each sample is one of them with a number behind its end, which decoders do not look at."""


def small(samples: int) -> Iterator[bytes]:
    """Yield JPEG files of 32 x 32."""
    yield from _numbered([_jpeg(seed, side=32, quality=90) for seed in range(_PICTURES)], samples)


def large(samples: int) -> Iterator[bytes]:
    """Yield JPEG files of about 100 kB, a tenth as many."""
    yield from _numbered([_jpeg(seed, side=448, quality=90) for seed in range(_PICTURES)], samples // 10)


def make_epochs(pictures: Any, folder: Path, samples: int, workers: int) -> tuple[Epoch, Epoch]:
    """Return an epoch of a plain pipeline and one through the guard, in loaders whose workers stay alive."""
    paths = _write(folder, list(pictures(samples)))
    pipeline = wds.WebDataset(paths, shardshuffle=False).shuffle(100).decode("pil").to_tuple("jpg", "cls")
    report = report_on(paths, folder / "cache")
    # Under "warn" both hand out the same samples: what a guard saves by dropping some must not hide what it costs.
    guarded = vbdguard.guard(pipeline, on_poison="warn", report=report, cache_dir=folder / "cache")
    plain_loader, guarded_loader = (
        DataLoader(stream, batch_size=None, num_workers=workers, persistent_workers=workers > 0)
        for stream in (pipeline.map_tuple(_size), guarded.map_tuple(_size))
    )
    return lambda: _run(plain_loader), lambda: _run(guarded_loader)


STREAMS: Mapping[str, Any] = MappingProxyType(
    {"webdataset_32px": partial(make_epochs, small), "webdataset_100kb": partial(make_epochs, large)}
)
"""The cases of `benchmarks.guard_overhead`."""


def report_on(paths: list[str], cache_dir: Path) -> ScanReport:
    """Return a report that flags every tenth sample; what it flags costs nothing, so no scan is needed here."""
    ingested = ingest(paths, store_dir=cache_dir, image_size=(8, 8))
    store = ingested.store
    flagged = [
        FlaggedSample(
            key=store.keys[row],
            digest=store.digests[row].tobytes().hex(),
            label=int(store.labels[row]),
            score=1.0,
            suggested_label=None,
        )
        for row in range(0, len(store), FLAGGED_EVERY)
    ]
    return ScanReport(
        status="complete",
        verdict="poisoned",
        dataset=DatasetReport(
            digest=ingested.dataset_digest,
            sources=ingested.sources,
            samples=len(store),
            classes=CLASSES,
            image_shape=store.image_shape,
            shards=ingested.shards,
        ),
        config={},
        seed=0,
        device="cpu",
        classes=_classes(ingested, Counter(entry.label for entry in flagged)),
        flagged=tuple(flagged),
        skipped=(),
        timings={"total": 0.0},
        environment={},
        tool={"name": "vbdguard", "version": vbdguard.__version__},
    )


def _classes(ingested: Ingested, flagged_in: Counter[int]) -> tuple[ClassReport, ...]:
    return tuple(
        ClassReport(
            label=label,
            name=str(label),
            samples=count,
            poisoned=flagged_in[label] > 0,
            flagged=flagged_in[label],
            p_value=None,
            attack_success_rate=None,
            trigger=None,
        )
        for label, count in enumerate(ingested.class_counts)
    )


def _write(folder: Path, images: list[bytes]) -> list[str]:
    paths = [folder / f"train-{shard:03}.tar" for shard in range(SHARDS)]
    for shard, path in enumerate(paths):
        with tarfile.open(path, "w") as archive:
            for number in range(shard, len(images), SHARDS):
                _add(archive, f"{number:06}.jpg", images[number])
                _add(archive, f"{number:06}.cls", str(number % CLASSES).encode())
    return [str(path) for path in paths]


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def _jpeg(seed: int, *, side: int, quality: int) -> bytes:
    """Return a picture of smooth patches and grain, which compresses like a photograph."""
    generator = np.random.default_rng(seed)
    patches = generator.integers(0, 192, (side // 8, side // 8, 3), dtype=np.uint8)
    pixels = patches.repeat(8, axis=0).repeat(8, axis=1) + generator.integers(0, 48, (side, side, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    return file.getvalue()


def _numbered(pictures: list[bytes], samples: int) -> Iterator[bytes]:
    for number in range(samples):
        yield pictures[number % len(pictures)] + number.to_bytes(4, "little")


def _size(value: Any) -> Any:
    # A worker would spend more on sending a picture than on all else.
    return getattr(value, "size", value)


def _run(loader: Any) -> int:
    return sum(1 for _ in loader)
