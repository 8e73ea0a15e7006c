"""clean(): what stays, what goes, what adds up, and what happens when it is stopped."""

from __future__ import annotations

import gc
import gzip
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from small_scans import ACCUSING

import vbdguard.cleaning.clean_copy
from vbdguard.cleaning.clean_copy import clean
from vbdguard.cleaning.result import CleanCopy
from vbdguard.config import (
    ScanConfig,
)
from vbdguard.errors import ConfigError, ReportError, SourceError
from vbdguard.ingest.reader import ingest
from vbdguard.report import ScanReport
from vbdguard.scanner import scan
from vbdguard.sources.base import RawSample, Unreadable
from vbdguard.sources.opening import open_source

Flagging = Callable[..., ScanReport]
Members = Sequence[tuple[str, bytes]]
ONE_JOB = ScanConfig(device="cpu", jobs=1)


def png(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (9, 8, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def npy(seed: int) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.arange(seed % 7 * 50))
    return buffer.getvalue()


def tar_bytes(members: Members, form: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        for number, (name, content) in enumerate(members):
            info = tarfile.TarInfo(name)
            info.size, info.mtime, info.uname = len(content), 1_700_000_000.5 + number, "somebody"
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def sample(key: str, seed: int, label: int | None = None) -> list[tuple[str, bytes]]:
    number = seed % 3 if label is None else label
    return [
        (f"{key}.png", png(seed)),
        (f"{key}.cls", str(number).encode()),
        (f"{key}.json", json.dumps({"caption": f"no. {seed}"}).encode()),
        (f"{key}.npy", npy(seed)),
    ]


def write_shards(folder: Path, shards: Sequence[Members], suffix: str = ".tar", form: int = tarfile.PAX_FORMAT) -> Path:
    folder.mkdir(parents=True)
    for number, members in enumerate(shards):
        data = tar_bytes(members, form)
        (folder / f"train-{number:06d}{suffix}").write_bytes(data if suffix == ".tar" else gzip.compress(data))
    return folder


def members_of(path: Path) -> list[tuple[str, bytes, float, str]]:
    with tarfile.open(path) as tar:
        return [(one.name, tar.extractfile(one).read(), one.mtime, one.uname) for one in tar]  # type: ignore[union-attr]


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if not path.is_dir()}


def labels_by_key(source: Path, label_key: str | None = None) -> dict[str, int | str]:
    entries = [entry for shard in open_source(str(source), label_key=label_key).shards for entry in shard.read()]
    assert not [entry for entry in entries if isinstance(entry, Unreadable)]
    return {entry.key: entry.label for entry in entries if isinstance(entry, RawSample)}


def reasons(copy: CleanCopy) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (copy.quarantine / "reasons.jsonl").read_text("ascii").splitlines()]


def digests(source: Any) -> list[bytes]:
    with tempfile.TemporaryDirectory() as store_dir:
        return [bytes(digest) for digest in ingest(str(source), store_dir=Path(store_dir)).store.digests]


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Three shards of four samples with extra fields."""
    parts = [[member for n in range(4) for member in sample(f"s{n}", 10 * part + n)] for part in range(3)]
    return write_shards(tmp_path / "shards", parts)


POISON = {"train-000000.tar/s1": 2, "train-000002.tar/s0": None, "train-000002.tar/s3": 0}


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
def test_members_that_stay_keep_bytes_order_and_headers(
    tmp_path: Path, report_flagging: Flagging, suffix: str, form: int
) -> None:
    long = "deep/" * 25 + "name"
    parts = [
        [("README", b"no sample"), *sample("a", 1), *sample(long, 2), *sample("c", 3)],
        [*sample("a", 4), *sample("b", 5)],
    ]
    source = write_shards(tmp_path / "shards", parts, suffix, form)
    report = report_flagging(str(source), {f"train-000000{suffix}/{long}": None})
    copy = clean(source, tmp_path / "out", ONE_JOB, report=report)
    assert (copy.kept, copy.flagged, copy.skipped, copy.total) == (4, 1, 0, 5)
    for number in range(2):
        name = f"train-{number:06d}{suffix}"
        before, after = members_of(source / name), members_of(tmp_path / "out" / name)
        assert after == [one for one in before if long not in one[0]]
    assert (tmp_path / "out" / f"train-000001{suffix}").read_bytes() == (source / f"train-000001{suffix}").read_bytes()
    taken = members_of(copy.quarantine / "flagged" / f"train-000000{suffix}")
    assert taken == [one for one in members_of(source / f"train-000000{suffix}") if long in one[0]]


def test_a_second_reading_finds_the_digests_that_were_kept(
    shards: Path, tmp_path: Path, report_flagging: Flagging
) -> None:
    before = tree(shards)
    report = report_flagging(str(shards), POISON)
    all_digests = digests(shards)
    copy = clean(shards, tmp_path / "out", ONE_JOB, report=report)
    flagged = [bytes.fromhex(entry.digest) for entry in report.flagged]
    assert sorted(digests(copy.dest)) == sorted(digest for digest in all_digests if digest not in flagged)
    assert sorted(digests(copy.quarantine / "flagged")) == sorted(flagged)
    assert tree(shards) == before
    assert {one["key"]: one["suggested_label"] for one in reasons(copy)} == POISON
    body = json.loads((copy.dest / "vbdguard-clean.json").read_text())
    assert body["status"] == "complete"
    assert body["samples"] == {"kept": 9, "relabelled": 0, "flagged": 3, "skipped": 0, "total": 12}
    assert [row["kept"] + row["flagged"] for row in body["classes"]] == [entry.samples for entry in report.classes]


def test_without_a_report_a_scan_decides(tmp_path: Path) -> None:
    """Settings that accuse the innocent: what becomes of flags is asked here, not who deserves them."""
    parts = [[one for n in range(45) for one in sample(f"s{n}", 45 * part + n)] for part in range(2)]
    source = write_shards(tmp_path / "shards", parts)
    copy = clean(source, tmp_path / "out", ACCUSING)
    assert copy.report.flagged == scan(source, ACCUSING).flagged
    assert copy.flagged == len(copy.report.flagged) > 0
    assert copy.kept + copy.flagged == 90
    assert clean(source, tmp_path / "out", ACCUSING).resumed_shards == 2


def test_relabelling_changes_the_label_and_nothing_else(
    shards: Path, tmp_path: Path, report_flagging: Flagging
) -> None:
    report = report_flagging(str(shards), POISON)
    copy = clean(shards, tmp_path / "out", ONE_JOB, report=report, policy="relabel")
    assert (copy.kept, copy.relabelled, copy.flagged) == (9, 2, 1)
    labels = labels_by_key(copy.dest)
    assert labels["train-000000.tar/s1"] == 2
    assert labels["train-000002.tar/s3"] == 0
    assert "train-000002.tar/s0" not in labels
    before, after = (members_of(folder / "train-000000.tar") for folder in (shards, copy.dest))
    assert [one for one in after if one[0] != "s1.cls"] == [one for one in before if one[0] != "s1.cls"]
    assert next(one for one in after if one[0] == "s1.cls")[1:] == (b"2", *before[5][2:])
    assert {one["key"]: one.get("new_class") for one in reasons(copy)} == POISON


@pytest.mark.parametrize(("label_key", "names"), [(None, ("label",)), ("species", ("species", "label"))])
def test_relabelling_follows_the_label_into_json(
    tmp_path: Path, report_flagging: Flagging, label_key: str | None, names: tuple[str, ...]
) -> None:
    def member(n: int) -> list[tuple[str, bytes]]:
        body = {name: ["ant", "bee"][n % 2] for name in names} | {"more": [n]}
        return [(f"s{n}.json", json.dumps(body).encode()), (f"s{n}.png", png(n))]

    source = write_shards(tmp_path / "shards", [[one for n in range(6) for one in member(n)]])
    report = report_flagging(str(source), {"train-000000.tar/s2": 1}, label_key=label_key)
    config = ScanConfig(jobs=1, label_key=label_key)
    copy = clean(source, tmp_path / "out", config, report=report, policy="relabel")
    assert labels_by_key(copy.dest, label_key)["train-000000.tar/s2"] == "bee"
    after = dict(one[:2] for one in members_of(copy.dest / "train-000000.tar"))
    assert json.loads(after["s2.json"]) == {**dict.fromkeys(names, "ant"), names[0]: "bee", "more": [2]}


def test_relabelling_lets_no_second_place_of_the_label_disagree(tmp_path: Path, report_flagging: Flagging) -> None:
    def members(n: int) -> list[tuple[str, bytes]]:
        body = {"label": n % 2, "class": n % 2, "id": n % 2, "name": "kept"}
        return [*sample(f"s{n}", n, n % 2)[:2], (f"s{n}.json", json.dumps(body).encode())]

    source = write_shards(tmp_path / "shards", [[one for n in range(6) for one in members(n)]])
    report = report_flagging(str(source), {"train-000000.tar/s2": 1})
    copy = clean(source, tmp_path / "out", ONE_JOB, report=report, policy="relabel")
    assert (copy.kept, copy.relabelled, copy.skipped) == (5, 1, 0)
    assert labels_by_key(copy.dest)["train-000000.tar/s2"] == 1
    after = {name: content for name, content, *_ in members_of(copy.dest / "train-000000.tar")}
    assert after["s2.cls"] == b"1"
    assert json.loads(after["s2.json"]) == {"label": 1, "class": 1, "id": 0, "name": "kept"}


def test_classes_that_lie_deeper_get_no_folder_at_the_top(tmp_path: Path, report_flagging: Flagging) -> None:
    source = tmp_path / "images"
    for n in range(12):
        path = source / ("first", "second")[n % 2] / ("ant", "bee")[n // 2 % 2] / f"{n}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(n))
    config = ScanConfig(device="cpu", jobs=1, folder_rule="huggingface")
    opened = open_source(str(source), folder_rule="huggingface")
    report = report_flagging(opened, {f"first/ant/{n}.png": 1 for n in (0, 4, 8)})
    copy = clean(source, tmp_path / "out", config, report=report)
    assert (copy.kept, copy.flagged) == (9, 3)
    assert sorted(path.name for path in copy.dest.iterdir()) == ["first", "second", "vbdguard-clean.json"]


def test_what_cannot_be_read_is_counted_listed_and_kept_out(tmp_path: Path, report_flagging: Flagging) -> None:
    parts = [
        [*sample("a", 1), ("b.png", b"not a picture"), ("b.cls", b"1"), ("c.png", png(3)), *sample("d", 2)],
        [*sample("a", 4), *sample("b", 5), *sample("c", 6)],
    ]
    source = write_shards(tmp_path / "shards", parts)
    broken = source / "train-000001.tar"
    whole = broken.read_bytes()
    broken.write_bytes(whole[: whole.rindex(b"c.cls") - 100])
    (source / "train-000002.tar").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    report = report_flagging(str(source), {"train-000000.tar/d": None, "train-000001.tar/a": None})
    copy = clean(source, tmp_path / "out", ONE_JOB, report=report)
    assert copy.total == copy.kept + copy.flagged + copy.skipped == report.dataset.samples + len(report.skipped)
    assert labels_by_key(copy.dest).keys() == {"train-000000.tar/a", "train-000001.tar/b"}
    assert {(one["fate"], one["key"], one["reason"]) for one in reasons(copy)} == {
        ("flagged", "train-000000.tar/d", "poisoned"),
        ("flagged", "train-000001.tar/a", "poisoned"),
        ("skipped", "train-000000.tar/b", "undecodable"),
        ("skipped", "train-000000.tar/c", "no-label"),
        ("skipped", "train-000001.tar", "truncated"),
        ("skipped", "train-000002.tar", "git-lfs-pointer"),
    }
    skipped = {one[0]: one[1] for one in members_of(copy.quarantine / "skipped" / "train-000000.tar")}
    assert skipped == {"b.png": b"not a picture", "b.cls": b"1", "c.png": png(3)}


@pytest.mark.parametrize("name", ["../../x", "/etc/x", "a/../../x", "\\x", "C:/x"])
def test_names_that_lead_out_are_listed_and_written_nowhere(
    tmp_path: Path, report_flagging: Flagging, name: str
) -> None:
    poisoned = "../bad"
    source = write_shards(
        tmp_path / "shards", [[*sample("a", 1), *sample(name, 2), *sample(poisoned, 3), *sample("b", 4)]]
    )
    report = report_flagging(str(source), {f"train-000000.tar/{poisoned}": None})
    copy = clean(source, tmp_path / "out", ONE_JOB, report=report)
    assert (copy.kept, copy.flagged, copy.skipped) == (2, 1, 3)  # the sample, and what the scan says of both names
    listed = {(one["key"], one["fate"], one["reason"], one["listed_only"]) for one in reasons(copy)}
    assert listed == {
        (f"train-000000.tar/{name}", "skipped", "unsafe-name", True),
        (f"train-000000.tar/{poisoned}", "flagged", "poisoned", True),
        (f"train-000000.tar/{poisoned}", "skipped", "unsafe-name", True),
    }
    archives = [path for folder in (copy.dest, copy.quarantine) for path in folder.rglob("*.tar")]
    assert {one[0] for path in archives for one in members_of(path)} == {
        f"{key}.{suffix}" for key in "ab" for suffix in ("png", "cls", "json", "npy")
    }


def test_links_and_devices_are_left_out(tmp_path: Path, report_flagging: Flagging) -> None:
    source = write_shards(tmp_path / "shards", [[*sample("a", 1), *sample("b", 2)]])
    path = source / "train-000000.tar"
    with tarfile.open(path, "a") as tar:
        link = tarfile.TarInfo("out")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc"
        tar.addfile(link)
        folder = tarfile.TarInfo("folder")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
    copy = clean(source, tmp_path / "out", ONE_JOB, report=report_flagging(str(source), {}))
    with tarfile.open(copy.dest / "train-000000.tar") as tar:
        assert [one.name for one in tar if not one.isreg()] == ["folder"]
    assert [(one["fate"], one["reason"], one["listed_only"]) for one in reasons(copy)] == [("skipped", "link", True)]
    assert (copy.kept, copy.skipped) == (2, 1)


def test_a_cut_never_joins_two_samples_of_one_key(tmp_path: Path, report_flagging: Flagging) -> None:
    """Repeated keys: taken out from between, a flagged sample would leave one group where there were two."""
    parts = [[*sample("a", 1), *sample("bad", 2), *sample("a", 3), *sample("bad", 4), *sample("b", 5)]]
    source = write_shards(tmp_path / "shards", parts)
    report = report_flagging(str(source), {"train-000000.tar/bad": None})
    assert len(report.flagged) == 2
    copy = clean(source, tmp_path / "out", ONE_JOB, report=report)
    assert (copy.kept, copy.flagged, copy.skipped) == (2, 2, 3)  # what the scan says of both keys counts too
    assert [one["reason"] for one in reasons(copy)].count("repeated-key") == 3


@pytest.mark.parametrize("size", range(0, 10 * 1024, 512))
def test_a_shard_of_which_nothing_stays_is_an_empty_archive(
    tmp_path: Path, report_flagging: Flagging, size: int
) -> None:
    """However long the zeros are that its writer has put at its end."""
    parts = [[*sample("a", 1), *sample("b", 2)], [("lone.png", png(1)), ("lone.json", b" " * size + b"{}")]]
    source = write_shards(tmp_path / "shards", parts)
    copy = clean(source, tmp_path / "out", ONE_JOB, report=report_flagging(str(source), {}))
    assert (copy.kept, copy.skipped) == (2, 1)
    with tarfile.open(copy.dest / "train-000001.tar") as tar:
        assert tar.getmembers() == []


def image_folder(root: Path) -> Path:
    for n in range(9):
        path = root / ["ant", "bee", "cat"][n % 3] / ("deep" if n > 5 else ".") / f"{n}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(n))
    return root


@pytest.mark.parametrize("link", [False, True])
def test_an_image_folder_keeps_its_tree(tmp_path: Path, report_flagging: Flagging, link: bool) -> None:
    source = image_folder(tmp_path / "images")
    (source / "bee" / "broken.png").write_bytes(b"nothing")
    (tmp_path / "elsewhere.png").write_bytes(png(50))
    (source / "ant" / "linked.png").symlink_to(tmp_path / "elsewhere.png")
    before = tree(source)
    report = report_flagging(str(source), {"ant/0.png": 1, "cat/deep/8.png": 0})
    copy = clean(source, tmp_path / "out", ONE_JOB, report=report, link=link)
    gone = {"ant/0.png", "cat/deep/8.png"}
    kept = tree(copy.dest)
    del kept["vbdguard-clean.json"]
    assert kept == {name: data for name, data in before.items() if name not in gone | {"bee/broken.png"}}
    assert tree(copy.quarantine / "flagged") == {name: before[name] for name in gone}
    assert tree(copy.quarantine / "skipped") == {"bee/broken.png": b"nothing"}
    assert tree(source) == before
    assert not (copy.dest / "ant/linked.png").is_symlink()
    assert ((copy.dest / "ant/3.png").stat().st_ino == (source / "ant/3.png").stat().st_ino) is link


def test_relabelled_images_move_to_their_class_folder(tmp_path: Path, report_flagging: Flagging) -> None:
    source = image_folder(tmp_path / "images")
    report = report_flagging(str(source), {"ant/0.png": 1, "ant/3.png": 1, "ant/deep/6.png": 2})
    copy = clean(source, tmp_path / "out", ONE_JOB, report=report, policy="relabel")
    assert (copy.kept, copy.relabelled, copy.flagged) == (6, 3, 0)
    found = labels_by_key(copy.dest)
    assert sorted(found.values()) == ["bee"] * 5 + ["cat"] * 4
    assert (copy.dest / "ant").is_dir()  # or every trainer would number the classes anew
    assert [key for key in found if key.startswith("cat/deep/6-")]


def test_shards_behind_a_url_are_copied_here(shards: Path, tmp_path: Path, report_flagging: Flagging) -> None:
    import fsspec  # type: ignore[import-untyped]

    memory = fsspec.filesystem("memory")
    for path in shards.iterdir():
        memory.pipe(f"/remote/{path.name}", path.read_bytes())
    report = report_flagging("memory://remote/*.tar", POISON)
    copy = clean("memory://remote/*.tar", tmp_path / "out", ScanConfig(jobs=2), report=report, link=True)
    local = clean(shards, tmp_path / "local", ONE_JOB, report=report_flagging(str(shards), POISON))
    assert {name: data for name, data in tree(copy.dest).items() if name.endswith(".tar")} == {
        name: data for name, data in tree(local.dest).items() if name.endswith(".tar")
    }


def parquet_file(path: Path, rows: int = 30) -> Path:
    import pyarrow as pa
    from pyarrow import parquet

    table = pa.table(
        {
            "id": [f"row {n}" for n in range(rows)],
            "image": [{"bytes": png(n), "path": f"{n}.png"} for n in range(rows)],
            "label": [n % 3 for n in range(rows)],
        }
    )
    features = {"label": {"names": ["ant", "bee", "cat"], "_type": "ClassLabel"}, "image": {"_type": "Image"}}
    features["id"] = {"dtype": "string", "_type": "Value"}
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(table, path, row_group_size=8, compression="zstd")
    return path


@pytest.mark.parametrize("policy", ["drop", "relabel"])
def test_parquet_keeps_schema_order_and_metadata(tmp_path: Path, report_flagging: Flagging, policy: Any) -> None:
    from pyarrow import parquet

    source = parquet_file(tmp_path / "in" / "train.parquet")
    report = report_flagging(str(source), {"train.parquet/4": 0, "train.parquet/9": 2, "train.parquet/29": None})
    copy = clean(source, tmp_path / "out", ONE_JOB, report=report, policy=policy)
    before, after = parquet.read_table(source), parquet.read_table(copy.dest / "train.parquet")
    gone = {29} if policy == "relabel" else {4, 9, 29}
    assert after.schema.equals(before.schema, check_metadata=True)
    assert after["id"].to_pylist() == [f"row {n}" for n in range(30) if n not in gone]
    assert after["image"].to_pylist() == [one for n, one in enumerate(before["image"].to_pylist()) if n not in gone]
    new = {4: 0, 9: 2} if policy == "relabel" else {}
    assert after["label"].to_pylist() == [new.get(n, n % 3) for n in range(30) if n not in gone]
    taken = parquet.read_table(copy.quarantine / "flagged" / "train.parquet")
    assert taken["id"].to_pylist() == [f"row {n}" for n in sorted(gone)]
    metadata = parquet.ParquetFile(copy.dest / "train.parquet").metadata
    assert metadata.row_group(0).column(0).compression == "ZSTD"
    assert metadata.num_row_groups > 1


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_copy_that_was_stopped_goes_on_where_it_stood(
    shards: Path, tmp_path: Path, report_flagging: Flagging, jobs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = report_flagging(str(shards), POISON)
    config = ScanConfig(jobs=jobs)

    class Stop:
        steps = 0

        def begin(self, stage: str, total: int | None) -> None:
            self.stage = stage

        def end(self) -> None: ...

        def advance(self, steps: int = 1) -> None:
            self.steps += self.stage == vbdguard.cleaning.clean_copy.STAGE
            if self.steps == 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        clean(shards, tmp_path / "out", config, report=report, progress=Stop())
    assert json.loads((tmp_path / "out/vbdguard-clean.json").read_text())["status"] == "incomplete"
    done = {path.name: path.stat().st_ino for path in (tmp_path / "out").glob("*.tar")}
    rest = tmp_path / "out.quarantine"
    for left in (tmp_path / "out/.0123456789abcdef.partial", rest / "records/.0123.json.0123456789abcdef.tmp"):
        left.write_bytes(b"of a process that was killed")
    copy = clean(shards, tmp_path / "out", config, report=report)
    assert copy.resumed_shards >= 2
    # One more may stand there without its record, from a worker that was stopped just then: it is written again.
    assert sum((copy.dest / name).stat().st_ino == place for name, place in done.items()) >= copy.resumed_shards
    straight = clean(shards, tmp_path / "straight", config, report=report)
    assert tree(copy.dest) == tree(straight.dest)
    assert tree(copy.quarantine) == tree(straight.quarantine)


STOPPED = """
import os, signal, sys
from pathlib import Path
import vbdguard.sources.tar_cutting as cutting
from vbdguard.cleaning.clean_copy import clean
from vbdguard.config import ScanConfig
from vbdguard.report import ScanReport

source, dest, report, fault = sys.argv[1:]
if fault == "killed":
    whole, calls = cutting._pass, []

    def killed(*arguments):
        calls.append(1)
        if len(calls) == 12:  # in the midst of the second shard that is cut
            os.kill(os.getpid(), signal.SIGKILL)
        whole(*arguments)

    cutting._pass = killed
else:
    import resource
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))
saved = ScanReport.from_json(Path(report).read_text())
clean(source, dest, ScanConfig(jobs=1), report=saved, use_cache=fault == "killed")
"""


@pytest.mark.skipif(os.name != "posix", reason="signals and limits of POSIX")
@pytest.mark.parametrize(
    ("fault", "word"),
    [("killed", ""), ("full", "cannot be copied: [Errno 27] File too large; free space")],
    ids=["kill -9", "disk full"],
)
def test_a_process_that_dies_while_it_writes_leaves_no_half_of_a_shard(
    shards: Path, tmp_path: Path, report_flagging: Flagging, fault: str, word: str
) -> None:
    report = report_flagging(str(shards), POISON)
    (tmp_path / "report.json").write_text(report.to_json())
    command = [sys.executable, "-c", STOPPED, str(shards), str(tmp_path / "out"), str(tmp_path / "report.json"), fault]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == (-signal.SIGKILL if fault == "killed" else 1), ended.stderr
    assert word in ended.stderr
    left = {path.name for path in (tmp_path / "out").iterdir()}
    assert "train-000002.tar" not in left
    assert any(name.endswith(".partial") for name in left) is (fault == "killed")
    copy = clean(shards, tmp_path / "out", ONE_JOB, report=report)
    assert copy.resumed_shards == len([name for name in left if name.endswith(".tar")])
    straight = clean(shards, tmp_path / "straight", ONE_JOB, report=report)
    assert tree(copy.dest) == tree(straight.dest)
    assert tree(copy.quarantine) == tree(straight.quarantine)


def test_a_finished_shard_is_not_written_again_and_a_changed_one_is(
    shards: Path, tmp_path: Path, report_flagging: Flagging
) -> None:
    report = report_flagging(str(shards), POISON)
    first = clean(shards, tmp_path / "out", ONE_JOB, report=report)
    before = {path.name: path.stat().st_mtime_ns for path in first.dest.glob("*.tar")}
    bytes_before = tree(first.dest)
    (first.dest / "train-000001.tar").write_bytes(b"a disk that forgot")
    second = clean(shards, first.dest, ONE_JOB, report=report)
    assert second.resumed_shards == 2
    assert tree(first.dest) == bytes_before
    after = {path.name: path.stat().st_mtime_ns for path in first.dest.glob("*.tar")}
    assert [name for name in before if before[name] != after[name]] == ["train-000001.tar"]


def test_a_folder_of_another_copy_is_refused(shards: Path, tmp_path: Path, report_flagging: Flagging) -> None:
    clean(shards, tmp_path / "out", ONE_JOB, report=report_flagging(str(shards), POISON))
    before = tree(tmp_path / "out")
    with pytest.raises(SourceError, match="belongs to another copy: expected report_digest"):
        clean(shards, tmp_path / "out", ONE_JOB, report=report_flagging(str(shards), {}))
    with pytest.raises(SourceError, match="belongs to another copy: expected policy relabel, got drop"):
        clean(shards, tmp_path / "out", ONE_JOB, report=report_flagging(str(shards), POISON), policy="relabel")
    assert tree(tmp_path / "out") == before


def test_places_that_are_not_apart_are_refused(shards: Path, tmp_path: Path, report_flagging: Flagging) -> None:
    report = report_flagging(str(shards), POISON)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    before = tree(tmp_path)
    for dest, quarantine, message in [
        (shards, None, "apart from the source"),
        (shards / "clean", None, "apart from the source"),
        (tmp_path, None, "apart from the source"),
        (tmp_path / "out", shards / "bad", "apart from the source"),
        (tmp_path / "out", tmp_path / "out" / "bad", "one holds the other"),
        (tmp_path / "full", None, "found 'mine.txt' in it"),
        (tmp_path / "out", tmp_path / "full", "found 'mine.txt' in it"),
        (tmp_path / "file", None, "this is a file"),
    ]:
        with pytest.raises(SourceError, match=message):
            clean(shards, dest, ONE_JOB, report=report, quarantine=quarantine)
    with pytest.raises(SourceError, match="holds shards of the source"):
        clean(str(shards / "*.tar"), shards, ONE_JOB, report=report)
    assert tree(tmp_path) == before


def test_a_report_on_other_data_is_refused(shards: Path, tmp_path: Path, report_flagging: Flagging) -> None:
    report = report_flagging(str(shards), POISON)
    (shards / "train-000001.tar").unlink()
    with pytest.raises(ReportError, match="expected the data that the report speaks of"):
        clean(shards, tmp_path / "out", ONE_JOB, report=report)
    assert not (tmp_path / "out").exists()


def test_a_report_follows_shards_that_were_renamed(shards: Path, tmp_path: Path, report_flagging: Flagging) -> None:
    report = report_flagging(str(shards), POISON)
    (shards / "train-000002.tar").rename(shards / "other.tar")
    copy = clean(shards, tmp_path / "out", ONE_JOB, report=report)
    assert (copy.kept, copy.flagged) == (9, 3)
    assert {one["key"] for one in reasons(copy)} == {"train-000000.tar/s1", "other.tar/s0", "other.tar/s3"}


def test_a_source_that_changes_after_its_scan_is_noticed(
    shards: Path, tmp_path: Path, report_flagging: Flagging, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = report_flagging(str(shards), POISON)
    monkeypatch.setattr(vbdguard.cleaning.clean_copy, "scan", lambda *_, **__: report)
    extra = tar_bytes([*sample("s0", 10), *sample("new", 99)])
    (shards / "train-000001.tar").write_bytes(extra)
    with pytest.raises(SourceError, match=r"train-000001\.tar: expected what was scanned"):
        clean(shards, tmp_path / "out", ONE_JOB)
    assert not (tmp_path / "out" / "train-000001.tar").exists()


def test_a_dry_run_writes_nothing_and_expects_what_comes(
    shards: Path, tmp_path: Path, report_flagging: Flagging
) -> None:
    report = report_flagging(str(shards), POISON)
    before = set(tmp_path.rglob("*"))
    expected = clean(shards, tmp_path / "out", ONE_JOB, report=report, policy="relabel", dry_run=True)
    assert set(tmp_path.rglob("*")) == before
    copy = clean(shards, tmp_path / "out", ONE_JOB, report=report, policy="relabel")
    assert (copy.classes, copy.skipped, copy.untouched_shards) == (expected.classes, 0, 1)
    assert expected.bytes_to_write == sum(path.stat().st_size for path in shards.iterdir())


def test_a_full_disk_is_foreseen(
    shards: Path, tmp_path: Path, report_flagging: Flagging, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = report_flagging(str(shards), POISON)
    usage = shutil.disk_usage(tmp_path)._replace(free=1_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(SourceError, match=r"expected 17 MB of free space for the copy, got 1 MB"):
        clean(shards, tmp_path / "out", ONE_JOB, report=report)
    assert not (tmp_path / "out").exists()


def test_a_file_that_nobody_has_scanned_does_not_pass_as_part_of_the_copy(
    shards: Path, tmp_path: Path, report_flagging: Flagging
) -> None:
    report = report_flagging(str(shards), POISON)
    copy = clean(shards, tmp_path / "out", ONE_JOB, report=report)
    shutil.copy(shards / "train-000002.tar", copy.dest / "train-000003.tar")
    with pytest.raises(SourceError, match=r"1 files that no scan has seen, such as 'train-000003\.tar'"):
        clean(shards, copy.dest, ONE_JOB, report=report)
    assert json.loads((copy.dest / "vbdguard-clean.json").read_text())["status"] == "incomplete"
    (copy.dest / "train-000003.tar").unlink()
    (copy.dest / "more").symlink_to(shards)
    with pytest.raises(SourceError, match="1 files that no scan has seen, such as 'more'"):
        clean(shards, copy.dest, ONE_JOB, report=report)


def test_a_label_that_cannot_be_rewritten_is_an_error_and_no_half_truth(
    tmp_path: Path, report_flagging: Flagging
) -> None:
    """A size in an extended header would outvote the one that the new label needs."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in [*sample("a", 1), *sample("b", 2)]:
            info = tarfile.TarInfo(name)
            info.size, info.pax_headers = len(content), {"size": str(len(content))}
            tar.addfile(info, io.BytesIO(content))
    (tmp_path / "one.tar").write_bytes(buffer.getvalue())
    report = report_flagging(str(tmp_path / "one.tar"), {"one.tar/b": 1})
    with pytest.raises(SourceError, match=r"one\.tar: unsupported: a label's size stands in an extended header"):
        clean(tmp_path / "one.tar", tmp_path / "out", ONE_JOB, report=report, policy="relabel")
    assert not (tmp_path / "out" / "one.tar").exists()
    copy = clean(tmp_path / "one.tar", tmp_path / "dropped", ONE_JOB, report=report)
    assert (copy.kept, copy.flagged) == (1, 1)


def test_an_unknown_policy_is_refused(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="policy must be one of drop, relabel"):
        clean(shards, tmp_path / "out", policy="burn")  # type: ignore[arg-type]


def test_a_dataset_in_memory_is_sent_to_the_guard(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"vbdguard\.guard\(\)"):
        clean([(np.zeros((8, 8, 3), np.uint8), 0)] * 3, tmp_path / "out")


# webdataset leaves the closing of its shards to the garbage collector
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
@pytest.mark.filterwarnings("ignore:Exception ignored in. <_io:pytest.PytestUnraisableExceptionWarning")
def test_training_loaders_read_the_copy(tmp_path: Path, report_flagging: Flagging) -> None:
    import datasets
    import webdataset as wds
    from torchvision.datasets import ImageFolder

    parts = [[member for n in range(4) for member in sample(f"s{n}", 10 * part + n)] for part in range(2)]
    shards = write_shards(tmp_path / "shards", [*parts, sample("bad", 7)])
    flags = {"train-000001.tar/s2": None, "train-000002.tar/bad": None}
    tars = clean(shards, tmp_path / "tars", ONE_JOB, report=report_flagging(str(shards), flags))
    urls = [str(path) for path in sorted(tars.dest.glob("*.tar"))]
    assert len(urls) == 3  # a shard that lost everything is still there, empty: patterns go on to fit
    read = [one["__key__"] for one in wds.WebDataset(urls, shardshuffle=False).decode("pil")]
    assert read == ["s0", "s1", "s2", "s3", "s0", "s1", "s3"]

    images = image_folder(tmp_path / "images")
    folder = clean(images, tmp_path / "folder", ONE_JOB, report=report_flagging(str(images), {"bee/1.png": None}))
    before, after = ImageFolder(str(images)), ImageFolder(str(folder.dest))
    assert after.class_to_idx == before.class_to_idx
    assert len(after) == 8
    assert np.asarray(after[0][0]).shape == (9, 8, 3)

    table = parquet_file(tmp_path / "table" / "train.parquet")
    copy = clean(table, tmp_path / "rows", ONE_JOB, report=report_flagging(str(table), {"train.parquet/5": None}))
    rows = datasets.Dataset.from_parquet(str(copy.dest / "train.parquet"), cache_dir=str(tmp_path / "hf"))
    assert rows.features["label"].names == ["ant", "bee", "cat"]
    assert [one["id"] for one in rows] == [f"row {n}" for n in range(30) if n != 5]
    assert rows[6]["image"].size == (8, 9)
    gc.collect()


KINDS = st.sampled_from(["good", "flagged", "undecodable", "no-label", "unsafe", "other"])


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    mix=st.lists(st.lists(st.tuples(KINDS, st.integers(0, 2)), max_size=6), min_size=1, max_size=3), drop=st.booleans()
)
def test_kept_and_quarantined_and_skipped_are_all(
    mix: list[list[tuple[str, int]]], drop: bool, tmp_path_factory: pytest.TempPathFactory, report_flagging: Flagging
) -> None:
    folder = tmp_path_factory.mktemp("mix")
    flagged: dict[str, int | None] = {}
    seed = 0
    parts: list[list[tuple[str, bytes]]] = [[*sample("x", 1000, 0), *sample("y", 1001, 1)]]
    for number, kinds in enumerate(mix, start=1):
        members: list[tuple[str, bytes]] = []
        for place, (kind, repeated) in enumerate(kinds):
            seed += 1
            key = f"{'../' if kind == 'unsafe' else ''}{kind}{repeated if kind != 'flagged' else place}"
            content = sample(key, seed)
            if kind == "undecodable":
                content[0] = (content[0][0], b"\x89PNG\r\n\x1a\n" + bytes(seed))
            elif kind == "no-label":
                content = content[:1]
            elif kind == "other":
                content = [(f"{key}.txt", b"neither image nor label")]
            elif kind == "flagged":
                flagged[f"train-{number:06d}.tar/{key}"] = None if place % 2 else (seed + 1) % 3
            members += content
        parts.append(members)
    source = write_shards(folder / "in", parts)
    before = tree(source)
    report = report_flagging(str(source), flagged)
    copy = clean(source, folder / "out", ONE_JOB, report=report, policy="drop" if drop else "relabel")
    assert copy.kept + copy.relabelled + copy.flagged + copy.skipped == copy.total
    assert copy.relabelled + copy.flagged == len(flagged)
    assert len(labels_by_key_list(copy.dest)) == copy.kept + copy.relabelled
    assert tree(source) == before
    assert {path.name for path in copy.dest.iterdir()} == {*before, "vbdguard-clean.json"}


def labels_by_key_list(source: Path) -> list[RawSample]:
    entries = [entry for shard in open_source(str(source)).shards for entry in shard.read()]
    assert {entry.reason for entry in entries if isinstance(entry, Unreadable)} <= {"repeated-key"}
    return [entry for entry in entries if isinstance(entry, RawSample)]
