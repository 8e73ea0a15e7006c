"""Tar shards: webdataset's samples on well-formed shards, a named entry for everything else."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vbdguard.errors import ReadError
from vbdguard.sources.base import RawSample, Unreadable
from vbdguard.sources.tar import IMAGE_FIELDS, TarShard

WriteTar = Callable[..., Path]


def read(path: Path, label_key: str | None = None) -> list[RawSample | Unreadable]:
    return list(TarShard(str(path), path.name, label_key).read())


def reasons(path: Path, label_key: str | None = None) -> list[tuple[str, str]]:
    return [
        (entry.key, entry.reason if isinstance(entry, Unreadable) else f"label {entry.label!r}")
        for entry in read(path, label_key)
    ]


def webdataset_samples(path: Path) -> list[tuple[str, bytes, int]]:
    """Return the samples as the real webdataset groups them."""
    from webdataset.tariterators import group_by_keys, tar_file_expander

    files = tar_file_expander([{"url": path.name, "stream": io.BytesIO(path.read_bytes())}])
    return [
        (sample["__key__"], next(sample[suffix] for suffix in sample if suffix in IMAGE_FIELDS), int(sample["cls"]))
        for sample in group_by_keys(files)
        if "cls" in sample
    ]


NAMES = st.lists(
    st.builds(
        "{}{}".format,
        st.sampled_from(["", "a/", "a.b/c/", "./", "/abs/", "__meta__/"]),
        st.text("xy_-é 0", min_size=1, max_size=4),
    ).filter(lambda key: key.strip("/")),
    unique=True,
    max_size=6,
)


@given(
    NAMES, st.sampled_from(["jpg", "PNG", "jpeg", "tiff"]), st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
)
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_samples_and_their_order_are_those_of_webdataset(
    write_tar: WriteTar, keys: list[str], suffix: str, form: int
) -> None:
    members = []
    for number, key in enumerate(keys):
        members += [
            (f"{key}.{suffix}", b"image %d" % number),
            (f"{key}.txt", b"a caption"),
            (f"{key}.cls", b"%d\n" % number),
        ]
    path = write_tar([("__index__.json", b"{}"), *members], form=form)
    ours = [
        (entry.key.removeprefix("shard.tar/"), entry.image, entry.label)
        for entry in read(path)
        if isinstance(entry, RawSample)
    ]
    assert ours == webdataset_samples(path)


def test_real_shards_read_as_webdataset_reads_them(test_data: Path, tmp_path: Path) -> None:
    import subprocess
    import sys

    tool, data = test_data / "tools" / "make_shards.py", test_data / "data" / "cifar10"
    subprocess.run([sys.executable, tool, data, tmp_path, "--limit", "300", "--per-shard", "300"], check=True)
    path = tmp_path / "train-000000.tar"
    ours = [(entry.key.removeprefix(f"{path.name}/"), entry.image, entry.label) for entry in read(path)]  # type: ignore[union-attr]
    assert len(ours) == 300
    assert ours == webdataset_samples(path)


def test_members_of_one_key_that_are_not_adjacent_are_two_samples_and_told(write_tar: WriteTar) -> None:
    path = write_tar(
        [("a.jpg", b"1"), ("a.cls", b"0"), ("b.jpg", b"2"), ("b.cls", b"1"), ("a.jpg", b"3"), ("a.cls", b"2")]
    )
    assert reasons(path) == [
        ("shard.tar/a", "label 0"),
        ("shard.tar/b", "label 1"),
        ("shard.tar/a", "label 2"),
        ("shard.tar/a", "repeated-key"),
    ]


@pytest.mark.parametrize(
    ("members", "label_key", "expected"),
    [
        ({"a.jpg": b"1", "a.cls": b" 7\n"}, None, "label 7"),
        ({"a.jpg": b"1", "a.json": b'{"label": 3}'}, None, "label 3"),
        ({"a.jpg": b"1", "a.json": b'{"class": "cat"}'}, None, "label 'cat'"),
        ({"a.jpg": b"1", "a.json": b'{"species": "cat"}'}, "species", "label 'cat'"),
        ({"a.jpg": b"1", "a.cls": b"7", "a.id": b"9"}, "id", "label 9"),
        ({"a.jpg": b"1", "a.cls": b"7", "a.json": b'{"label": 7, "class": "cat"}'}, None, "label 7"),
        ({"a.jpg": b"1", "a.cls": b"7", "a.json": b"{"}, None, "label 7"),
        ({"a.jpg": b"1", "a.cls": b"7", "a.json": b'["label"]'}, None, "label 7"),
        ({"a.jpg": b"1", "a.cls": b"7", "a.json": b'{"label": 3}'}, None, "ambiguous-label"),
        ({"a.jpg": b"1", "a.json": b'{"label": 7, "class": 3}'}, None, "ambiguous-label"),
        ({"a.jpg": b"1", "a.cls": b"7", "a.json": b'{"label": 3}'}, "cls", "label 7"),
        ({"a.jpg": b"1", "a.cls": b"7", "a.json": b'{"label": 3}'}, "label", "label 3"),
        ({"a.jpg": b"1", "a.txt": b"a cat\n"}, "txt", "label 'a cat'"),
        ({"a.jpg": b"1", "a.txt": b"a cat\n"}, None, "no-label"),
        ({"a.jpg": b"1", "a.json": b'{"species": "cat"}'}, None, "no-label"),
        ({"a.jpg": b"1", "a.json": b'{"label": null}'}, None, "no-label"),
        ({"a.jpg": b"1", "a.json": b"[1, 2]"}, None, "no-label"),
        ({"a.jpg": b"1", "a.cls": b"7"}, "species", "no-label"),
        ({"a.jpg": b"1"}, None, "no-label"),
        ({"a.cls": b"1", "a.v1.jpg": b"1"}, None, "no-image"),
        ({"a.gif": b"1", "a.cls": b"1"}, None, "no-image"),
        ({"a.jpg": b"1", "a.cls": b"cat"}, None, "bad-label"),
        ({"a.jpg": b"1", "a.cls": b"-1"}, None, "bad-label"),
        ({"a.jpg": b"1", "a.cls": b"1_000"}, None, "bad-label"),
        ({"a.jpg": b"1", "a.cls": b""}, None, "bad-label"),
        ({"a.jpg": b"1", "a.json": b'{"label": true}'}, None, "bad-label"),
        ({"a.jpg": b"1", "a.json": b'{"label": 1.5}'}, None, "bad-label"),
        ({"a.jpg": b"1", "a.json": b"{"}, None, "bad-label"),
        ({"a.jpg": b"1", "a.txt": b"\xff"}, "txt", "bad-label"),
        ({"a.jpg": b"1", "a.JPG": b"2", "a.cls": b"1"}, None, "duplicate-member"),
        ({"a.jpg": b"1", "a.png": b"2", "a.cls": b"1"}, None, "ambiguous-image"),
    ],
)
def test_labels_and_faults_of_a_sample(
    write_tar: WriteTar, members: dict[str, bytes], label_key: str | None, expected: str
) -> None:
    after = [("z.jpg", b"1"), ("z.cls", b"1"), ("z.id", b"1"), ("z.txt", b"1"), ("z.json", b'{"species": 1}')]
    entries = reasons(write_tar([*members.items(), *after]), label_key)
    assert entries[0] == ("shard.tar/a", expected)
    assert [key for key, _ in entries] == ["shard.tar/a", "shard.tar/z"]


def test_members_with_neither_image_nor_label_are_no_samples(write_tar: WriteTar) -> None:
    path = write_tar([("README.md", b"hello"), ("info.json", json.dumps({"license": "x"}).encode()), (".hidden", b"")])
    assert read(path) == []


def test_pickles_are_passed_over(write_tar: WriteTar) -> None:
    members = [("a.jpg", b"1"), ("a.cls", b"1"), ("a.pkl", b"cos\nsystem\n(S'exit 1'\ntR."), ("a.pth", b"\x80")]
    assert reasons(write_tar(members)) == [("shard.tar/a", "label 1")]


def whole(png: Callable[..., bytes]) -> list[tuple[str, bytes]]:
    return [(f"{n}.{suffix}", png(n) if suffix == "png" else b"1") for n in range(3) for suffix in ("png", "cls")]


def test_cut_shard_gives_what_came_before_and_says_that_it_was_cut(
    write_tar: WriteTar, png: Callable[..., bytes], tmp_path: Path
) -> None:
    data = write_tar(whole(png)).read_bytes()
    path = tmp_path / "cut.tar"
    path.write_bytes(data[:2100])  # inside the second sample's image
    assert reasons(path) == [("cut.tar/0", "label 1"), ("cut.tar", "truncated")]
    last = read(path)[-1]
    assert isinstance(last, Unreadable)
    assert last.is_shard


def test_sample_cut_off_from_its_label_is_not_called_unlabelled(
    write_tar: WriteTar, png: Callable[..., bytes], tmp_path: Path
) -> None:
    data = write_tar(whole(png)).read_bytes()
    path = tmp_path / "cut.tar"
    path.write_bytes(data[: 512 + 512 + 1024 + 1024])  # 0.png, 0.cls, 1.png, then nothing
    assert [key for key, _ in reasons(path)] == ["cut.tar/0", "cut.tar"]


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress, zstandard.compress])
def test_compressed_shard_reads_the_same(
    write_tar: WriteTar, png: Callable[..., bytes], pack: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    plain = write_tar(whole(png), "a/s.tar")
    packed = tmp_path / "s.tar"
    packed.write_bytes(pack(plain.read_bytes()))
    assert read(plain) == read(packed)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda data: data[: len(data) // 2], "truncated"),
        (lambda data: data[:-4], "truncated"),
        (lambda data: data[:-8] + b"\0\0\0\0" + data[-4:], "corrupt"),
        (lambda data: data + b"garbage", "several-streams"),
        (lambda data: data + gzip.compress(b"hidden"), "several-streams"),
        (lambda data: data[:40] + bytes(40) + data[80:], "corrupt"),
    ],
    ids=["half", "no trailer", "bad crc", "garbage behind", "second stream", "zeros inside"],
)
def test_damaged_gzip_is_named(
    write_tar: WriteTar, png: Callable[..., bytes], damage: Callable[[bytes], bytes], reason: str
) -> None:
    path = write_tar(whole(png), mode="w:gz")
    path.write_bytes(damage(path.read_bytes()))
    last = read(path)[-1]
    assert isinstance(last, Unreadable)
    assert (last.reason, last.is_shard) == (reason, True)


def told(path: Path) -> list[tuple[str, str]]:
    return [
        (entry.key.removeprefix("shard.tar/"), entry.reason) for entry in read(path) if isinstance(entry, Unreadable)
    ]


SAMPLE = [("a.jpg", b"1"), ("a.cls", b"1")]


@pytest.mark.parametrize("name", ["/abs", "../up", "a/../../up", "C:/x"])
def test_names_that_lead_out_are_read_and_told(write_tar: WriteTar, name: str) -> None:
    path = write_tar([(f"{name}.jpg", b"1"), (f"{name}.cls", b"1"), *SAMPLE])
    assert reasons(path)[:2] == [(f"shard.tar/{name}", "label 1"), (f"shard.tar/{name}", "unsafe-name")]
    assert told(path) == [(name, "unsafe-name")]


@pytest.mark.parametrize("name", ["dir/.hidden.jpg", "__meta__/a.jpg", ".jpg", "b.seg.png"])
def test_images_that_webdataset_makes_no_sample_of_are_told(write_tar: WriteTar, name: str) -> None:
    assert told(write_tar([*SAMPLE, (name, b"1")])) == [(name, "hidden-image")]


def test_other_fields_and_files_are_not_told(write_tar: WriteTar) -> None:
    assert told(write_tar([("a.jpg", b"1"), ("a.seg.png", b"1"), ("a.cls", b"1"), ("README.md", b"1")])) == []


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (tarfile.LNKTYPE, "link"),
        (tarfile.SYMTYPE, "link"),
        (tarfile.CHRTYPE, "device"),
        (tarfile.BLKTYPE, "device"),
        (tarfile.FIFOTYPE, "pipe"),
        (tarfile.GNUTYPE_SPARSE, "sparse-file"),
        (b"Z", "unknown-member"),
    ],
)
def test_members_that_are_no_plain_files_are_told_and_the_rest_is_read(
    write_tar: WriteTar, kind: bytes, reason: str
) -> None:
    path = write_tar(SAMPLE)
    with tarfile.open(path, "a") as tar:
        other = tarfile.TarInfo("b.jpg")
        other.type, other.linkname = kind, "a.jpg"
        tar.addfile(other)
        for name, content in (("c.jpg", b"1"), ("c.cls", b"2")):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    # The link comes first: as in webdataset, a sample goes on behind it.
    assert reasons(path) == [("shard.tar/b.jpg", reason), ("shard.tar/a", "label 1"), ("shard.tar/c", "label 2")]


def test_shard_of_too_many_faults_is_not_read_to_its_end(write_tar: WriteTar, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vbdguard.sources.faults.MAX_FAULTS", 3)
    path = write_tar([(f"{n}.jpg", b"1") for n in range(9)])
    assert [reason for _, reason in told(path)] == ["no-label"] * 4 + ["too-many-faults"]


def test_label_files_and_groups_that_would_fill_the_memory_are_refused(
    write_tar: WriteTar, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert told(write_tar([("a.jpg", b"1"), ("a.json", b" " * (1 << 20) + b"1")])) == [("a", "too-large")]
    assert told(write_tar([("a.jpg", b"1"), ("a.json", b'{"label": "%s"}' % (b"x" * 1001))])) == [("a", "bad-label")]
    monkeypatch.setattr("vbdguard.sources.tar.MAX_MEMBER", 1500)
    assert told(write_tar([("a.jpg", b"x" * 1000), ("a.cls", b"x" * 1000)])) == [("a", "too-large")]
    monkeypatch.setattr("vbdguard.sources.tar.MAX_FIELDS", 20)
    assert told(write_tar([(f"a.{n}", b"") for n in range(30)])) == [("shard.tar", "too-many-members")]


def test_git_lfs_pointer_is_named_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n")
    with pytest.raises(ReadError, match="git lfs pull"):
        read(path)


def test_missing_file_is_an_io_error(tmp_path: Path) -> None:
    with pytest.raises(ReadError, match="io-error"):
        read(tmp_path / "gone.tar")


def test_digest_is_that_of_the_bytes(write_tar: WriteTar) -> None:
    from blake3 import blake3

    path = write_tar([("a.jpg", b"1")])
    assert TarShard(str(path), "a").digest() == blake3(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_file_that_changes_between_hashing_and_reading_is_refused(
    write_tar: WriteTar, png: Callable[..., bytes], mode: str
) -> None:
    path = write_tar(whole(png), mode=mode)
    shard = TarShard(str(path), path.name)
    shard.digest()
    assert len(list(shard.read())) == 3
    write_tar(whole(png)[:-2], mode=mode)
    with pytest.raises(ReadError, match="changed"):
        list(shard.read())


@pytest.mark.parametrize("mode", ["w", "w:gz"])
@pytest.mark.parametrize("cut", [None, 700])
def test_the_pass_that_reads_tells_the_digest_of_the_whole_file(
    write_tar: WriteTar, png: Callable[..., bytes], mode: str, cut: int | None
) -> None:
    path = write_tar(whole(png), mode=mode)
    path.write_bytes(path.read_bytes()[:cut])
    heard: list[str] = []
    shard = TarShard(str(path), path.name)
    entries = list(shard.read_and_hash(heard.append))
    assert entries == read(path)
    assert heard == [TarShard(str(path), path.name).digest()]
    assert shard.size() == path.stat().st_size


def test_reading_and_hashing_does_not_ask_what_was_hashed_before(
    write_tar: WriteTar, png: Callable[..., bytes]
) -> None:
    path = write_tar(whole(png))
    shard = TarShard(str(path), path.name)
    before = shard.digest()
    write_tar(whole(png)[:-2])
    heard: list[str] = []
    assert len(list(shard.read_and_hash(heard.append))) == 2
    assert heard == [shard.digest()] != [before]


def test_truncated_shard_that_was_hashed_still_reads(write_tar: WriteTar, png: Callable[..., bytes]) -> None:
    path = write_tar(whole(png))
    path.write_bytes(path.read_bytes()[:2100] + b"x" * 3_000_000)
    shard = TarShard(str(path), path.name)
    shard.digest()
    last = list(shard.read())[-1]
    assert isinstance(last, Unreadable)
    assert last.is_shard


def test_names_that_are_not_utf_8_give_printable_keys(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT, encoding="latin-1") as tar:
        for name, content in (("ü.jpg", b"1"), ("ü.cls", b"1")):
            info: Any = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    path = tmp_path / "s.tar"
    path.write_bytes(buffer.getvalue())
    entry, note = read(path)
    assert entry.key.encode("utf-8") == note.key.encode("utf-8") == rb"s.tar/\xfc"
    assert getattr(note, "reason", "") == "unsafe-name"  # a backslash parts folders on some systems
