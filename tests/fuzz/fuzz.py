"""Coverage-guided fuzzing of the readers, one target each.

    python tests/fuzz/fuzz.py tar -max_total_time=3600 CORPUS_FOLDER

Needs atheris (pip install atheris). What a target must keep: no exception but those that the readers announce, an end
within seconds, and for tar that whatever is called whole holds the samples that webdataset finds in it.
"""

from __future__ import annotations

import contextlib
import io
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["vbdguard", "PIL"]):
    from vbdguard.errors import ReadError, ReportError, SourceError
    from vbdguard.ingest.decode import decode_image, image_size
    from vbdguard.report import ScanReport
    from vbdguard.sources.arrow import ArrowShard
    from vbdguard.sources.base import ExifRule, RawSample, Shard, Unreadable
    from vbdguard.sources.braces import expand_braces
    from vbdguard.sources.kinds import kind_by_content
    from vbdguard.sources.manifest import is_manifest, open_manifest
    from vbdguard.sources.npz import NpzShard
    from vbdguard.sources.parquet import ParquetShard
    from vbdguard.sources.tar import IMAGE_FIELDS, TarShard
    from vbdguard.sources.tar_notes import NOTES_ON_SAMPLES

BLOCK = 512
EXIF_RULES: tuple[ExifRule, ...] = ("stored", "turned")
Entries = list[RawSample | Unreadable]


def entries_of(make: Callable[[str, str], Shard], data: bytes, suffix: str) -> Entries:
    """Return what a shard of these bytes gives; where it fails as a whole, that failure."""
    path = Path(FOLDER.name) / f"input{suffix}"
    path.write_bytes(data)
    try:
        return list(make(str(path), "input").read())
    except ReadError as error:
        return [Unreadable("input", error.reason, error.detail, is_shard=True)]


def with_checksums(data: bytes) -> bytes:
    """Give every block that looks like a tar header a right checksum: chance would need years for one."""
    blocks = bytearray(data)
    for start in range(0, len(blocks) - BLOCK + 1, BLOCK):
        if blocks[start + 257 : start + 262] == b"ustar":
            blocks[start + 148 : start + 156] = b" " * 8
            blocks[start + 148 : start + 156] = b"%06o\0 " % sum(blocks[start : start + BLOCK])
    return bytes(blocks)


def fuzz_tar(data: bytes) -> None:
    data = with_checksums(data)
    entries = entries_of(TarShard, data, ".tar")
    if all(isinstance(entry, RawSample) or entry.reason in NOTES_ON_SAMPLES for entry in entries):
        ours = [(entry.key.removeprefix("input/"), entry.image) for entry in entries if isinstance(entry, RawSample)]
        theirs = webdataset_images(data)
        if ours != theirs:
            Path("crash-tar").write_bytes(data)
            raise AssertionError(f"we see {[key for key, _ in ours]}, webdataset {[key for key, _ in theirs]}")


def webdataset_images(data: bytes) -> list[tuple[str, bytes]]:
    """Return key and image of each sample with both image and label, as webdataset groups them; no key is compared
    beyond what UTF-8 can say of it."""
    from webdataset.tariterators import group_by_keys, tar_file_expander

    samples = []
    for sample in group_by_keys(tar_file_expander([{"url": "input", "stream": io.BytesIO(data)}])):
        images = [field for field in sample if field in IMAGE_FIELDS]
        if images:
            key = sample["__key__"].encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
            samples.append((key, sample[images[0]]))
    return samples


def fuzz_compressed(data: bytes) -> None:
    entries_of(TarShard, data, ".tar.gz")


def fuzz_image(data: bytes) -> None:
    for exif in EXIF_RULES:
        with contextlib.suppress(ReadError):
            height, width = image_size(data, exif=exif)
            if height * width < 1 << 20:
                assert decode_image(data, (8, 8), exif=exif).shape == (8, 8, 3)


def fuzz_manifest(data: bytes) -> None:
    is_manifest(data)
    path = Path(FOLDER.name) / "input.csv"
    path.write_bytes(data)
    with contextlib.suppress(SourceError):
        for shard in open_manifest(str(path)).shards:
            list(shard.read())


def fuzz_npz(data: bytes) -> None:
    entries_of(NpzShard, data, ".npz")


def fuzz_arrow(data: bytes) -> None:
    entries_of(ArrowShard, data, ".arrow")


def fuzz_parquet(data: bytes) -> None:
    entries_of(ParquetShard, data, ".parquet")


def fuzz_kind(data: bytes) -> None:
    kind_by_content(data)


def fuzz_braces(data: bytes) -> None:
    with contextlib.suppress(SourceError):
        assert len(expand_braces(data.decode("utf-8", "replace"))) <= 100_000


def fuzz_report(data: bytes) -> None:
    with contextlib.suppress(ReportError):
        report = ScanReport.from_json(data.decode("utf-8", "surrogateescape"))
        assert ScanReport.from_json(report.to_json()) == report


TARGETS = {name.removeprefix("fuzz_"): target for name, target in list(globals().items()) if name.startswith("fuzz_")}

if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        sys.exit(f"expected one of {', '.join(TARGETS)}, then options of libFuzzer such as -max_total_time=60")
    if sys.argv[1] == "tar":
        webdataset_images(bytes(20 * BLOCK))  # imports webdataset, and torch with it, before an input's time is taken
    FOLDER = tempfile.TemporaryDirectory(prefix="vbdguard-fuzz-")
    atheris.Setup([sys.argv[0], *sys.argv[2:]], TARGETS[sys.argv[1]])
    atheris.Fuzz()
