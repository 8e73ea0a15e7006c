"""Three shards of noise, and a scan of them that takes a quarter of a second and accuses somebody."""

from __future__ import annotations

import gc
import tarfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import webdataset as wds
from small_scans import ACCUSING

from vbdguard.report import ScanReport
from vbdguard.scanner import scan
from vbdguard.sources.base import RawSample
from vbdguard.sources.writing import write_shards


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", autouse=True)
def left_open() -> Iterator[None]:
    """Close, in the tests that left them behind, the shard files that webdataset does not close."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def pack_tar(path: Path, samples: Iterable[tuple[str, Mapping[str, bytes]]]) -> Path:
    """Write (key, fields) as a tar file."""
    with tarfile.open(path, "w") as archive:
        for key, fields in samples:
            for suffix, content in fields.items():
                member = tarfile.TarInfo(f"{key}.{suffix}")
                member.size = len(content)
                archive.addfile(member, BytesIO(content))
    return path


def unpack_tar(path: Path) -> list[tuple[str, dict[str, bytes]]]:
    """Return the (key, fields) of a tar file, in its order."""
    with tarfile.open(path) as archive:
        samples: dict[str, dict[str, bytes]] = {}
        for member in archive:
            key, _, suffix = member.name.partition(".")
            content = archive.extractfile(member)
            assert content is not None
            samples.setdefault(key, {})[suffix] = content.read()
    return list(samples.items())


@dataclass(frozen=True)
class Shards:
    """Shards with the report on them."""

    folder: Path
    report: ScanReport
    cache: Path
    urls: str

    @property
    def all_keys(self) -> Counter[str]:
        return Counter(key for path in sorted(self.folder.iterdir()) for key, _ in unpack_tar(path))

    @property
    def flagged(self) -> dict[str, int]:
        """Key to class of the flagged samples."""
        return {entry.key.rsplit("/")[-1]: entry.label for entry in self.report.flagged}

    @property
    def kept_keys(self) -> Counter[str]:
        return Counter(key for key in self.all_keys.elements() if key not in self.flagged)

    @property
    def dropped(self) -> dict[int, int]:
        """Class to number of flagged samples."""
        return dict(Counter(self.flagged.values()))

    @property
    def options(self) -> dict[str, Any]:
        return {"config": ACCUSING, "cache_dir": self.cache}


def noise(count: int = 90, classes: int = 3, seed: int = 0) -> list[RawSample]:
    """Noise around a brightness of each class's own."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    images = rng.integers(0, 150, (count, 16, 16, 3)) + 50 * labels[:, None, None, None]
    return [
        RawSample(f"s{number:03d}", image.astype(np.uint8), int(label))
        for number, (image, label) in enumerate(zip(images, labels, strict=True))
    ]


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Shards:
    """90 samples of 3 classes in 3 shards of 30; some are flagged. Not to be altered."""
    root = tmp_path_factory.mktemp("shards")
    write_shards(noise(), root / "data", per_shard=30)
    report = scan(str(root / "data"), ACCUSING, cache_dir=root / "cache")
    names = sorted(path.name for path in (root / "data").iterdir())
    assert len(names) == 3
    made = Shards(root / "data", report, root / "cache", str(root / "data" / f"{{{','.join(names)}}}"))
    assert 0 < len(made.flagged) < 90, "the tests need some samples flagged and some not"
    return made


@pytest.fixture
def copied(shards: Shards, tmp_path: Path) -> Shards:
    """The same shards, free to be altered."""
    folder = tmp_path / "copied"
    folder.mkdir()
    for path in shards.folder.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    names = sorted(path.name for path in folder.iterdir())
    return Shards(folder, shards.report, shards.cache, str(folder / f"{{{','.join(names)}}}"))


@pytest.fixture
def plain() -> Callable[..., Any]:
    """The function that makes a WebDataset of raw samples."""

    def make(urls: Any, **settings: Any) -> Any:
        return wds.WebDataset(urls, shardshuffle=False, **settings)

    return make


@pytest.fixture
def keys_of() -> Callable[[Iterable[Any]], Counter[str]]:
    """The function that counts the keys in a stream of samples or of batches of them."""

    def count(stream: Iterable[Any]) -> Counter[str]:
        found: Counter[str] = Counter()
        for one in stream:
            found.update([one["__key__"]] if isinstance(one["__key__"], str) else one["__key__"])
        return found

    return count


@pytest.fixture
def pack() -> Callable[..., Path]:
    return pack_tar


@pytest.fixture
def unpack() -> Callable[[Path], list[tuple[str, dict[str, bytes]]]]:
    return unpack_tar
