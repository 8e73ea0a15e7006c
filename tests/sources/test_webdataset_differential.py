"""Well-formed shard sets give the samples of the real webdataset: key for key, byte for byte.

Some sets in the ordinary run; VBDGUARD_DIFFERENTIAL_SETS=1000 makes that many.
"""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import random
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from vbdguard.sources.base import RawSample, Unreadable
from vbdguard.sources.opening import open_source
from vbdguard.sources.tar import IMAGE_FIELDS

SETS = int(os.environ.get("VBDGUARD_DIFFERENTIAL_SETS", "40"))
PER_TEST = 20

FORMATS = (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    ".tar": bytes,
    ".tar.gz": gzip.compress,
    ".tgz": gzip.compress,
    ".tar.bz2": bz2.compress,
    ".tar.xz": lzma.compress,
}
EXTRAS = ("txt", "seg.png", "npy", "pkl", "pth", "meta.json", "CAPTION", "jpg.sha256")
FOLDERS = ("", "", "a/", "./", "a.b/c.d/", "deep/" * 25, "ü/é/", "with blank/", "_x/", "__x/")
LETTERS = "abcXYZ019_- éß漢\\'\"%~"


def key_of(chance: random.Random, number: int) -> str:
    length = chance.choice((0, 1, 4, 4, 4, 90))
    name = "".join(chance.choices(LETTERS, k=length))
    return f"{chance.choice(FOLDERS)}{name.strip()}{number}"


def members_of(chance: random.Random, number: int, label_field: str) -> list[tuple[str, bytes]]:
    key, label = key_of(chance, number), chance.randrange(1000)
    image = chance.choice(sorted(IMAGE_FIELDS))
    members = [
        (f"{key}.{chance.choice((image, image.upper()))}", chance.randbytes(chance.choice((0, 1, 511, 512, 3000))))
    ]
    body = str(label) + chance.choice(("", "\n")) if label_field == "cls" else json.dumps({"label": label, "x": [1]})
    members.append((f"{key}.{label_field}", body.encode()))
    members += [(f"{key}.{extra}", chance.randbytes(20)) for extra in chance.sample(EXTRAS, chance.randrange(3))]
    chance.shuffle(members)
    return members


def written(chance: random.Random, folder: Path) -> list[Path]:
    label_field, suffix = chance.choice(("cls", "json")), chance.choice(sorted(PACKERS))
    folder.mkdir()
    paths = []
    number = 0
    for shard in range(chance.randrange(1, 4)):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=chance.choice(FORMATS), encoding="utf-8") as tar:
            if chance.random() < 0.3:
                add(tar, "__index__.json", b"{}", chance)
            for _ in range(chance.randrange(0, 12)):
                number += 1
                for name, content in members_of(chance, number, label_field):
                    add(tar, name, content, chance)
        paths.append(folder / f"train-{shard:06d}{suffix}")
        paths[-1].write_bytes(PACKERS[suffix](buffer.getvalue()))
    return paths


def add(tar: tarfile.TarFile, name: str, content: bytes, chance: random.Random) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mtime, info.mode = len(content), chance.randrange(2**31), chance.randrange(0o1000)
    tar.addfile(info, io.BytesIO(content))


def by_webdataset(paths: list[Path]) -> list[tuple[str, bytes, int]]:
    import webdataset

    samples = []
    for sample in webdataset.WebDataset([str(path) for path in paths], shardshuffle=False, empty_check=False):
        if sample["__key__"] == "__index__":  # it has no image: no trainer sees it
            continue
        [image] = [field for field in sample if field in IMAGE_FIELDS]
        label = json.loads(sample["json"])["label"] if "json" in sample else int(sample["cls"])
        samples.append((sample["__key__"], sample[image], label))
    return samples


def by_us(folder: Path) -> list[tuple[str, bytes, int]]:
    samples = []
    for shard in open_source(folder).shards:
        for entry in shard.read():
            if isinstance(entry, Unreadable):
                # The only thing to be said of them: a name that begins with a backslash leads out on some systems.
                assert entry.reason in ("unsafe-name", "hidden-image"), entry
                continue
            assert isinstance(entry, RawSample)
            samples.append((entry.key.removeprefix(f"{shard.name}/"), entry.image, entry.label))
    return samples  # type: ignore[return-value]


# webdataset leaves its shards open to the garbage collector.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("first", range(0, SETS, PER_TEST))
def test_samples_are_those_of_webdataset(first: int, tmp_path: Path) -> None:
    for seed in range(first, min(first + PER_TEST, SETS)):
        paths = written(random.Random(seed), tmp_path / str(seed))
        assert by_us(tmp_path / str(seed)) == by_webdataset(paths), seed
