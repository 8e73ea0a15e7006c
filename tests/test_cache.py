from __future__ import annotations

import json
import logging
import os
import threading
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vbdguard.cache import Cache, default_cache_dir
from vbdguard.errors import CacheError
from vbdguard.report import ClassReport, DatasetReport, FlaggedSample, ScanReport
from vbdguard.sealing import seal

DIGEST = "0123456789abcdef" * 4
KEY = "a" * 64


@pytest.fixture
def report() -> ScanReport:
    return ScanReport(
        status="complete",
        verdict="poisoned",
        dataset=DatasetReport(DIGEST, ("größe \udc80/",), 20, 1, (32, 32, 3), ()),
        config={"preset": "default"},
        seed=0,
        device="cpu",
        classes=(ClassReport(0, "cat", 20, True, 1, 0.001, 0.98, None),),
        flagged=(FlaggedSample("train-0.tar/7", DIGEST, 0, 0.97, None),),
        skipped=(),
        timings={"total": 1.5},
        environment={},
        tool={"name": "vbdguard", "version": "0.1.0"},
    )


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def add_segment(cache: Cache, name: str, size: int = 1000) -> Path:
    folder = cache.store_dir / "segments" / name
    folder.mkdir(parents=True)
    (folder / "pixels.npy").write_bytes(b"\0" * size)
    return folder


def age(path: Path, days: float) -> None:
    then = time.time() - days * 86_400
    os.utime(path, (then, then), follow_symlinks=False)


def test_a_saved_report_comes_back_and_says_so(cache: Cache, report: ScanReport) -> None:
    cache.save_report(KEY, report)
    loaded = cache.load_report(KEY)
    assert loaded == report
    assert loaded is not None
    assert loaded.from_cache


def test_an_unknown_key_and_a_missing_directory_give_nothing_and_no_warning(
    cache: Cache, report: ScanReport, caplog: pytest.LogCaptureFixture
) -> None:
    assert cache.load_report(KEY) is None
    cache.save_report(KEY, report)
    assert cache.load_report("b" * 64) is None
    assert not caplog.records


def test_a_second_save_replaces_the_first_and_leaves_no_other_file(cache: Cache, report: ScanReport) -> None:
    cache.save_report(KEY, report)
    cache.save_report(KEY, replace(report, seed=7))
    loaded = cache.load_report(KEY)
    assert loaded is not None
    assert loaded.seed == 7
    assert [path.name for path in (cache.directory / "reports").iterdir()] == [f"{KEY}.cpu.json"]


def test_reports_of_two_kinds_of_device_stand_side_by_side(cache: Cache, report: ScanReport) -> None:
    on_gpu = replace(report, device="cuda")
    cache.save_report(KEY, report)
    cache.save_report(KEY, on_gpu)
    assert [cache.load_report(KEY, kind) for kind in ("cpu", "cuda", "mps")] == [report, on_gpu, None]


def test_where_any_kind_of_device_will_do_the_newest_report_is_taken(cache: Cache, report: ScanReport) -> None:
    for kind, days in (("cpu", 2), ("cuda", 3), ("mps", 4)):
        cache.save_report(KEY, replace(report, device=kind))
        age(cache.directory / "reports" / f"{KEY}.{kind}.json", days)
    assert cache.load_report(KEY) == report
    cache.save_report(KEY, replace(report, device="cuda"))
    assert cache.load_report(KEY) == replace(report, device="cuda")


def test_where_the_newest_report_is_damaged_an_older_one_answers(
    cache: Cache, report: ScanReport, caplog: pytest.LogCaptureFixture
) -> None:
    cache.save_report(KEY, replace(report, device="cuda"))
    age(cache.directory / "reports" / f"{KEY}.cuda.json", 1)
    cache.save_report(KEY, report)
    (cache.directory / "reports" / f"{KEY}.cpu.json").write_text("{")
    assert cache.load_report(KEY) == replace(report, device="cuda")
    assert len(caplog.records) == 1


def test_a_report_renamed_to_another_kind_of_device_is_not_believed(
    cache: Cache, report: ScanReport, caplog: pytest.LogCaptureFixture
) -> None:
    cache.save_report(KEY, report)
    entries = cache.directory / "reports"
    (entries / f"{KEY}.cpu.json").rename(entries / f"{KEY}.cuda.json")
    assert cache.load_report(KEY, "cuda") is None
    assert "computed on 'cpu'" in caplog.text


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text("utf-8")
    assert old in text
    path.write_text(text.replace(old, new), "utf-8")


DAMAGE: dict[str, Any] = {
    "cut in half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "empty": lambda path: path.write_bytes(b""),
    "not text": lambda path: path.write_bytes(b"\xff\xfe\x00"),
    "another JSON": lambda path: path.write_text("[1, 2]"),
    "no report in it": lambda path: path.write_text('{"checksum": "x"}'),
    "verdict edited by hand": lambda path: edit(path, '"flagged": 1', '"flagged": 0'),
    "seed edited by hand": lambda path: edit(path, '"seed": 0', '"seed": 1'),
    "deeply nested": lambda path: path.write_text("[" * 100_000),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_entry_is_one_warning_and_a_rescan(
    damage: Any, cache: Cache, report: ScanReport, caplog: pytest.LogCaptureFixture
) -> None:
    cache.save_report(KEY, report)
    path = cache.directory / "reports" / f"{KEY}.cpu.json"
    damage(path)
    assert cache.load_report(KEY) is None
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert path.name in record.getMessage()
    assert "scanning again" in record.getMessage()
    cache.save_report(KEY, report)
    assert cache.load_report(KEY) == report


def test_an_entry_renamed_to_another_key_is_not_believed(
    cache: Cache, report: ScanReport, caplog: pytest.LogCaptureFixture
) -> None:
    cache.save_report(KEY, report)
    entries = cache.directory / "reports"
    (entries / f"{KEY}.cpu.json").rename(entries / f"{'b' * 64}.cpu.json")
    assert cache.load_report("b" * 64) is None
    assert "checksum" in caplog.text


def test_an_entry_of_a_contradictory_report_is_not_believed_even_with_its_checksum(
    cache: Cache, report: ScanReport, caplog: pytest.LogCaptureFixture
) -> None:
    body = {**report.to_dict(), "verdict": "clean"}
    cache.prepare()
    (cache.directory / "reports" / f"{KEY}.cpu.json").write_text(seal(KEY, json.dumps(body)))
    assert cache.load_report(KEY) is None
    assert "verdict" in caplog.text


PARTS: dict[str, Any] = {
    "dataset_digest": DIGEST,
    "judged": DIGEST,
    "settings": {"preset": "default", "method": {"models": 5}},
    "seed": 0,
    "version": "0.1.0",
}


def test_the_key_ignores_the_order_of_settings() -> None:
    turned = {**PARTS, "settings": dict(reversed(PARTS["settings"].items()))}
    assert Cache.report_key(**turned) == Cache.report_key(**PARTS)


@pytest.mark.parametrize(
    "change",
    [
        {"dataset_digest": "f" * 64},
        {"judged": "f" * 64},
        {"settings": {"preset": "default", "method": {"models": 6}}},
        {"seed": 1},
        {"version": "0.1.1"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_the_key_changes_with_all_that_a_result_depends_on(change: dict[str, Any]) -> None:
    assert Cache.report_key(**{**PARTS, **change}) != Cache.report_key(**PARTS)


@settings(max_examples=30)
@given(st.dictionaries(st.text(max_size=4), st.integers() | st.text(max_size=4) | st.booleans(), max_size=4))
def test_the_key_is_a_file_name_whatever_the_settings_hold(knobs: dict[str, Any]) -> None:
    key = Cache.report_key(**{**PARTS, "settings": knobs})
    assert len(key) == 64
    assert set(key) <= set("0123456789abcdef")


def test_info_counts_what_lies_there(cache: Cache, report: ScanReport) -> None:
    nothing = cache.info()
    assert (nothing.reports, nothing.segments, nothing.oldest, nothing.newest) == (0, 0, None, None)
    cache.save_report(KEY, report)
    age(add_segment(cache, "s1", 1000), 3)
    add_segment(cache, "s2", 500)
    info = cache.info()
    assert (info.reports, info.segments, info.segment_bytes) == (1, 2, 1500)
    assert info.report_bytes == (cache.directory / "reports" / f"{KEY}.cpu.json").stat().st_size
    assert info.oldest is not None
    assert info.newest is not None
    assert timedelta(days=2.9) < info.newest - info.oldest < timedelta(days=3.1)


def test_clear_removes_everything_that_is_ours(cache: Cache, report: ScanReport) -> None:
    cache.save_report(KEY, report)
    add_segment(cache, "s1", 1000)
    (cache.directory / "notes.txt").write_text("mine")
    info = cache.info()
    freed = cache.clear()
    assert freed.entries == 2
    assert freed.bytes == info.report_bytes + 1000
    assert [path.name for path in cache.directory.iterdir()] == ["notes.txt"]


def test_clear_by_age_keeps_what_is_younger(cache: Cache, report: ScanReport) -> None:
    cache.save_report(KEY, report)
    age(add_segment(cache, "old"), 31)
    age(add_segment(cache, "young"), 29)
    assert cache.clear(older_than=timedelta(days=30)).entries == 1
    assert [path.name for path in (cache.directory / "segments").iterdir()] == ["young"]
    assert cache.load_report(KEY) == report


def test_clear_follows_no_link_out_of_the_cache(cache: Cache, report: ScanReport, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious.txt").write_text("precious")
    cache.save_report(KEY, report)
    segment = add_segment(cache, "s1")
    (segment / "link").symlink_to(outside)
    (cache.directory / "segments" / "s2").symlink_to(outside)
    cache.clear()
    assert (outside / "precious.txt").read_text() == "precious"
    assert not cache.directory.joinpath("segments").exists()


def test_clear_leaves_a_linked_segments_folder_alone(cache: Cache, report: ScanReport, tmp_path: Path) -> None:
    elsewhere = tmp_path / "big disk"
    (elsewhere / "s1").mkdir(parents=True)
    cache.save_report(KEY, report)
    (cache.directory / "segments").symlink_to(elsewhere)
    cache.clear()
    assert (elsewhere / "s1").is_dir()


def test_clear_refuses_a_directory_that_is_not_a_cache(tmp_path: Path) -> None:
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports" / "thesis.json").write_text("{}")
    with pytest.raises(CacheError, match=r"no CACHEDIR.TAG.*nothing was removed"):
        Cache(tmp_path).clear()
    assert (tmp_path / "reports" / "thesis.json").exists()


def test_clear_of_no_cache_frees_nothing(cache: Cache) -> None:
    assert cache.clear().entries == 0


def test_clear_spares_what_is_being_written_but_not_what_a_crash_left(cache: Cache, report: ScanReport) -> None:
    cache.save_report(KEY, report)
    fresh, stale = (cache.directory / "reports" / f".{name}.tmp" for name in ("fresh", "stale"))
    for path in (fresh, stale):
        path.write_text("half")
    age(stale, 2)
    cache.clear()
    assert fresh.exists()
    assert not stale.exists()


def test_the_cache_is_tagged_for_backup_tools(cache: Cache) -> None:
    cache.prepare()
    tag = cache.directory / "CACHEDIR.TAG"
    assert tag.read_text().startswith("Signature: 8a477f597d28d172789f06886806bc55\n")


def test_a_directory_with_other_things_in_it_is_not_taken_over(tmp_path: Path, report: ScanReport) -> None:
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(CacheError, match=r"'thesis.tex'.*--cache-dir"):
        Cache(tmp_path).save_report(KEY, report)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_file_in_place_of_the_directory_says_what_to_do(tmp_path: Path, report: ScanReport) -> None:
    (tmp_path / "cache").write_text("not a directory")
    with pytest.raises(CacheError, match="--no-cache"):
        Cache(tmp_path / "cache").save_report(KEY, report)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="permissions do not bind here")
def test_a_directory_without_permission_says_what_to_do(tmp_path: Path, report: ScanReport) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(CacheError, match="--no-cache"):
            Cache(tmp_path / "cache").save_report(KEY, report)
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.skipif(os.name == "nt", reason="modes as POSIX has them")
@pytest.mark.parametrize(("mode", "is_warned_of"), [(0o777, True), (0o775, False), (0o700, False)])
@pytest.mark.parametrize("place", ["", "reports"])
def test_a_cache_that_everybody_may_write_to_is_warned_of(
    cache: Cache, caplog: pytest.LogCaptureFixture, mode: int, is_warned_of: bool, place: str
) -> None:
    cache.prepare()
    (cache.directory / place).chmod(mode)
    cache.warn_of_strangers()
    assert ("every user of this machine may write" in caplog.text) == is_warned_of


def test_a_full_disk_leaves_no_half_entry(cache: Cache, report: ScanReport, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.prepare()

    def no_space(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", no_space)
    with pytest.raises(CacheError, match="No space left"):
        cache.save_report(KEY, report)
    assert not list((cache.directory / "reports").iterdir())


def test_the_environment_names_the_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VBDGUARD_CACHE", str(tmp_path / "here"))
    assert default_cache_dir() == tmp_path / "here"
    assert Cache().directory == tmp_path / "here"
    monkeypatch.setenv("VBDGUARD_CACHE", "~/there")
    assert default_cache_dir() == Path.home() / "there"


def test_without_it_the_platform_names_the_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[str] = []
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda name, **_: asked.append(name) or str(tmp_path))
    monkeypatch.setenv("VBDGUARD_CACHE", "")
    assert default_cache_dir() == tmp_path
    assert asked == ["vbdguard"]


def test_one_process_computes_while_the_others_wait(tmp_path):
    cache = Cache(tmp_path)
    cache.prepare()
    order = []

    def second():
        with cache.computing("key"):
            order.append("second")

    with cache.computing("key"):
        thread = threading.Thread(target=second)
        thread.start()
        time.sleep(0.2)
        order.append("first")
    thread.join(timeout=10)
    assert order == ["first", "second"]
    assert not any((tmp_path / "reports").iterdir())


def test_without_locks_all_compute(tmp_path, monkeypatch):
    def refuse(*_args, **_kwargs):
        raise NotImplementedError("no locks on this file system")

    monkeypatch.setattr("filelock.FileLock.acquire", refuse)
    cache = Cache(tmp_path)
    cache.prepare()
    with cache.computing("key"):
        pass
