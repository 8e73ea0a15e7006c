"""scan() from shards on disk to the report, with nothing replaced."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
from blake3 import blake3
from PIL import Image
from small_scans import ACCUSING, SMALL_DEFAULT

from vbdguard.attacks.poison import Poisoned, poison_arrays
from vbdguard.cache import Cache
from vbdguard.cli.demo_data import DemoSet
from vbdguard.config import (
    AttackCheckConfig,
    DirectMethodConfig,
    SampleConfig,
    ScanConfig,
)
from vbdguard.errors import ConfigError, NothingToScanError, ReadError, SourceError, UnreadableError
from vbdguard.ingest import shards
from vbdguard.progress import Silent
from vbdguard.report import STAGES, ScanReport, report_schema
from vbdguard.scanner import scan
from vbdguard.sources.base import RawSample
from vbdguard.sources.writing import write_shards

CALM = replace(ACCUSING, method=replace(ACCUSING.method, attack_check=AttackCheckConfig(min_success_rate=1.1)))
"""As quick, and it never accuses anybody."""

Write = Callable[..., Path]


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterable[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def noise(count: int = 90, classes: int = 3) -> list[RawSample]:
    """Noise around a brightness of each class's own."""
    rng = np.random.default_rng(0)
    labels = np.arange(count) % classes
    images = rng.integers(0, 150, (count, 16, 16, 3)) + 50 * labels[:, None, None, None]
    return [
        RawSample(f"s{number:03d}", image.astype(np.uint8), int(label))
        for number, (image, label) in enumerate(zip(images, labels, strict=True))
    ]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write samples as shards into a folder."""

    def to_shards(
        folder: str = "data", samples: Iterable[RawSample] | None = None, prefix: str = "train", per_shard: int = 30
    ) -> Path:
        dest = tmp_path / folder
        write_shards(noise() if samples is None else samples, dest, per_shard=per_shard, prefix=prefix)
        return dest

    return to_shards


@pytest.fixture
def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the scan trained although it need not")

    monkeypatch.setattr("vbdguard.method.pipeline.detect", refuse)


def timeless(report: ScanReport, *, without: tuple[str, ...] = ()) -> str:
    """The report's bytes, less what the clock decides (and parts of `dataset`, where the test changes those)."""
    body = json.loads(report.to_json())
    del body["timings"]
    for name in without:
        del body["dataset"][name]
    return json.dumps(body)


@pytest.fixture(scope="module")
def attacked() -> Poisoned:
    """Four classes of 250 natural crops, every tenth with a 3 x 3 grid and the label 0."""
    drawn = [sample for sample in DemoSet(250).samples() if sample.label in (1, 4, 5, 9)]
    crops = np.stack([np.asarray(sample.image) for sample in drawn])
    small = crops.reshape(-1, 16, 2, 16, 2, 3).mean((2, 4)).astype(np.uint8)
    return poison_arrays(small, [(1, 4, 5, 9).index(int(sample.label)) for sample in drawn], "color_grid", target=0)


@pytest.fixture(scope="module")
def found(attacked: Poisoned, tmp_path_factory: pytest.TempPathFactory) -> ScanReport:
    folder = tmp_path_factory.mktemp("attacked")
    samples = (
        RawSample(f"s{number:04d}", image, int(label))
        for number, (image, label) in enumerate(zip(attacked.images, attacked.labels, strict=True))
    )
    write_shards(samples, folder / "data", per_shard=400)
    return scan(str(folder / "data"), SMALL_DEFAULT, cache_dir=folder / "cache")


def test_poison_in_shards_is_found_and_named(found: ScanReport, attacked: Poisoned) -> None:
    flagged = {int(entry.key.rsplit("/s")[1]) for entry in found.flagged}
    truth = set(np.flatnonzero(attacked.is_poisoned).tolist())
    assert (found.verdict, found.status, found.exit_code()) == ("poisoned", "complete", 1)
    assert [entry.label for entry in found.poisoned_classes] == [0]
    assert len(flagged & truth) >= 0.95 * len(truth)
    assert len(flagged - truth) <= 5


def test_the_report_shows_the_trigger(found: ScanReport) -> None:
    trigger = found.classes[0].trigger
    assert trigger is not None
    assert (trigger.bbox, trigger.pixels, trigger.blend_factor) == ((13, 13, 3, 3), 9, 1.0)
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(trigger.pattern_png))))
    assert picture.shape == (16, 16, 4)
    # the colour grid: red, green, cyan, yellow and blue
    for row, column, colour in [(13, 13, "100"), (13, 15, "010"), (14, 14, "011"), (15, 13, "110"), (15, 15, "001")]:
        assert "".join(str(int(level > 127)) for level in picture[row, column, :3]) == colour


def test_a_report_is_valid_against_the_schema_and_says_how_it_came_about(found: ScanReport) -> None:
    jsonschema.Draft202012Validator(report_schema()).validate(json.loads(found.to_json()))
    assert (found.seed, found.device, found.from_cache) == (0, "cpu", False)
    assert set(found.timings) == {*STAGES, "total"}
    assert found.timings["total"] >= 0.9 * sum(found.timings[stage] for stage in STAGES)
    assert found.dataset.samples == sum(entry.samples for entry in found.classes) == 1000
    assert [(shard.name, shard.samples) for shard in found.dataset.shards] == [
        ("train-000000.tar", 400),
        ("train-000001.tar", 400),
        ("train-000002.tar", 200),
    ]
    assert found.environment["torch"] == torch.__version__


def test_flags_are_counted_and_named_as_the_samples_are(write: Write, tmp_path: Path) -> None:
    report = scan(str(write()), ACCUSING, cache_dir=tmp_path / "cache")
    assert 0 < len(report.flagged) < 90
    assert len(report.flagged) == sum(entry.flagged for entry in report.classes)
    keys = {f"train-{number // 30:06d}.tar/s{number:03d}": number % 3 for number in range(90)}
    assert all(keys[entry.key] == entry.label for entry in report.flagged)


def test_a_second_scan_takes_the_cached_report_and_trains_nothing(
    write: Write, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    data = str(write())
    first = scan(data, ACCUSING, cache_dir=tmp_path / "cache")
    request.getfixturevalue("no_training")
    second = scan(data, replace(ACCUSING, jobs=2), cache_dir=tmp_path / "cache")
    assert (first.from_cache, second.from_cache) == (False, True)
    assert timeless(first) == timeless(second)
    assert list(second.timings) == ["ingest", "total"]


@pytest.mark.parametrize(
    ("first", "second", "is_taken"), [("cpu", "auto", True), ("cuda", "auto", True), ("cuda", "cpu", False)]
)
def test_auto_takes_the_report_of_any_device_and_a_named_device_its_own_only(
    write: Write, tmp_path: Path, request: pytest.FixtureRequest, first: str, second: str, is_taken: bool
) -> None:
    data = str(write())
    report = scan(data, ACCUSING, cache_dir=tmp_path / "cache")
    [entry] = (tmp_path / "cache" / "reports").glob("*.json")
    entry.unlink()
    Cache(tmp_path / "cache").save_report(entry.name.split(".")[0], replace(report, device=first))
    request.getfixturevalue("no_training")
    if is_taken:
        again = scan(data, replace(ACCUSING, device=second), cache_dir=tmp_path / "cache")
        assert (again.from_cache, again.device) == (True, first)
        return
    with pytest.raises(AssertionError, match="trained"):
        scan(data, replace(ACCUSING, device=second), cache_dir=tmp_path / "cache")


@pytest.mark.parametrize("change", ["refresh", "seed", "method", "data", "cache"])
def test_whatever_could_change_the_outcome_is_computed_anew(
    write: Write, tmp_path: Path, request: pytest.FixtureRequest, change: str
) -> None:
    scan(str(write()), ACCUSING, cache_dir=tmp_path / "cache")
    request.getfixturevalue("no_training")
    if change == "data":
        write("other", [*noise()[:-1], RawSample("s089", np.full((16, 16, 3), 9, np.uint8), 2)])
    configs = {"seed": replace(ACCUSING, seed=1), "method": CALM}
    with pytest.raises(AssertionError, match="trained"):
        scan(
            str(tmp_path / ("other" if change == "data" else "data")),
            configs.get(change, ACCUSING),
            cache_dir=tmp_path / ("elsewhere" if change == "cache" else "cache"),
            refresh=change == "refresh",
        )


def test_refresh_gives_the_same_bytes(write: Write, tmp_path: Path) -> None:
    data = str(write())
    first = scan(data, ACCUSING, cache_dir=tmp_path / "cache")
    again = scan(data, ACCUSING, cache_dir=tmp_path / "cache", refresh=True)
    assert not again.from_cache
    assert timeless(first) == timeless(again)


def test_renamed_shards_take_the_cached_report_under_their_new_names(
    write: Write, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    data = write()
    first = scan(str(data), ACCUSING, cache_dir=tmp_path / "cache")
    for path in sorted(data.iterdir()):
        path.rename(path.with_name(path.name.replace("train", "part")))
    request.getfixturevalue("no_training")
    second = scan(str(data), ACCUSING, cache_dir=tmp_path / "cache")
    assert second.from_cache
    assert [entry.key for entry in second.flagged] == [e.key.replace("train", "part") for e in first.flagged]
    assert [entry.digest for entry in second.flagged] == [entry.digest for entry in first.flagged]
    assert {shard.name for shard in second.dataset.shards} == {f"part-{i:06d}.tar" for i in range(3)}


def test_without_a_cache_nothing_is_left_behind(
    write: Write, tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write()
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    before = sorted(tmp_path.rglob("*"))
    assert not scan(str(data), ACCUSING, use_cache=False).from_cache
    assert not scan(str(data), ACCUSING, use_cache=False).from_cache
    assert sorted(tmp_path.rglob("*")) == before
    assert list(own_cache.iterdir()) == []


def test_the_users_cache_is_taken_where_none_is_named(write: Write, own_cache: Path) -> None:
    data = str(write())
    assert not scan(data, ACCUSING).from_cache
    assert any((own_cache / "reports").iterdir())
    assert scan(data, ACCUSING).from_cache


def test_neither_processes_nor_the_order_of_shards_change_a_byte(write: Write, tmp_path: Path) -> None:
    shards = [str(path) for path in sorted(write().iterdir())]
    alone = scan(shards, ACCUSING, cache_dir=tmp_path / "one")
    together = scan(shards, replace(ACCUSING, jobs=2), cache_dir=tmp_path / "two")
    turned = scan(shards[::-1], ACCUSING, cache_dir=tmp_path / "three")
    assert alone.flagged
    assert not any(report.from_cache for report in (alone, together, turned))
    assert timeless(alone) == timeless(together)
    # what the user typed is reported as typed
    assert timeless(alone, without=("sources",)) == timeless(turned, without=("sources",))


def test_a_fit_on_a_part_of_the_data_draws_the_same_however_the_shards_are_cut(
    attacked: Poisoned, write: Write, tmp_path: Path
) -> None:
    assert isinstance(SMALL_DEFAULT.method, DirectMethodConfig)
    bounded = replace(SMALL_DEFAULT, method=replace(SMALL_DEFAULT.method, sample=SampleConfig(per_class=150)))
    samples = [
        RawSample(f"s{number:04d}", image, int(label))
        for number, (image, label) in enumerate(zip(attacked.images, attacked.labels, strict=True))
    ]
    one = scan(str(write("one", samples, per_shard=400)), bounded, cache_dir=tmp_path / "one-cache")
    other = scan(str(write("other", samples[::-1], per_shard=170)), bounded, cache_dir=tmp_path / "other-cache")
    assert [(entry.label, entry.poisoned) for entry in one.classes] == [(0, True), (1, False), (2, False), (3, False)]
    truth = set(np.flatnonzero(attacked.is_poisoned).tolist())
    assert len({int(entry.key.rsplit("/s")[1]) for entry in one.flagged} & truth) >= 0.9 * len(truth)
    assert {(e.digest, e.score) for e in one.flagged} == {(e.digest, e.score) for e in other.flagged}
    assert one.classes == other.classes


def test_shards_cut_anew_hold_the_same_findings(write: Write, tmp_path: Path) -> None:
    one = scan(str(write("one")), ACCUSING, cache_dir=tmp_path / "cache")
    other = scan(str(write("other", noise()[::-1], per_shard=17)), ACCUSING, cache_dir=tmp_path / "fresh")
    assert one.dataset.digest == other.dataset.digest
    assert {(e.digest, e.score) for e in one.flagged} == {(e.digest, e.score) for e in other.flagged}
    assert one.classes == other.classes


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (noise(5), "expected at least 10 samples in some class, got 5 samples in 3 classes, the largest with 2"),
        (noise(30, classes=1), "expected at least two classes, all 30 samples"),
    ],
    ids=["five-images", "one-class"],
)
def test_too_little_to_say_anything_is_no_clean_verdict(
    write: Write, tmp_path: Path, samples: list[RawSample], message: str
) -> None:
    shards = write(samples=samples)
    with pytest.raises(NothingToScanError, match=message):
        scan(str(shards), ACCUSING, cache_dir=tmp_path / "cache")
    # a shard that cannot be read may hold the rest
    (shards / "broken.tar").write_bytes(b"no tar" * 200)
    with pytest.raises(UnreadableError, match=message):
        scan(str(shards), ACCUSING, cache_dir=tmp_path / "cache")
    assert list((tmp_path / "cache" / "reports").iterdir()) == []


@pytest.mark.parametrize(("config", "code"), [(CALM, 2), (ACCUSING, 1)], ids=["clean", "poisoned"])
def test_a_truncated_shard_leaves_the_scan_incomplete(
    write: Write, tmp_path: Path, config: ScanConfig, code: int
) -> None:
    path = write() / "train-000001.tar"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    for _ in range(2):  # computed, then from the cache
        report = scan(str(path.parent), config, cache_dir=tmp_path / "cache")
        assert (report.status, report.exit_code()) == ("incomplete", code)
        assert [(entry.key, entry.reason) for entry in report.skipped] == [("train-000001.tar", "truncated")]
        assert [shard.status for shard in report.dataset.shards] == ["complete", "incomplete", "complete"]
        assert report.dataset.samples < 90
    assert report.from_cache


def test_clean_data_that_can_all_be_read_have_exit_code_0(write: Write, tmp_path: Path) -> None:
    report = scan(str(write()), CALM, cache_dir=tmp_path / "cache")
    assert (report.verdict, report.status, report.flagged, report.exit_code()) == ("clean", "complete", (), 0)


def test_what_was_not_judged_then_is_judged_once_it_can_be_decoded(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The data and their digest stay the same: a report on the readable part must not pass for one on the whole."""
    data = str(write())
    decode = shards.decode_images

    def half_blind(*arguments: Any) -> list[Any]:
        images = enumerate(decode(*arguments))
        return [ReadError("undecodable", "an older decoder") if number % 2 else image for number, image in images]

    with monkeypatch.context() as older:
        older.setattr("vbdguard.ingest.shards.decode_images", half_blind)
        for module in ("segments", "reader"):
            older.setattr(f"vbdguard.ingest.{module}.decoder_id", lambda: "older")
        older.setattr(ScanConfig, "reading_limits", None)  # read in this process, where the older decoder is
        part = scan(data, CALM, cache_dir=tmp_path / "cache")
    whole = scan(data, CALM, cache_dir=tmp_path / "cache")
    assert part.dataset.digest == whole.dataset.digest
    assert (part.status, part.dataset.samples) == ("incomplete", 45)
    assert (whole.status, whole.dataset.samples, whole.from_cache) == ("complete", 90, False)


def test_an_unknown_device_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="got 'abacus'"):
        scan(str(tmp_path / "not there"), replace(ACCUSING, device="abacus"), cache_dir=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_a_source_that_is_not_there_is_an_error_not_a_clean_verdict(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="not there"):
        scan(str(tmp_path / "not there"), ACCUSING, cache_dir=tmp_path / "cache")


def calmed(entry: dict[str, Any]) -> None:
    for row in entry["body"]["classes"]:
        row.update(poisoned=False, flagged=0, trigger=None)
    entry["body"].update(verdict="clean", flagged=[])


def under_the_checksum_of_the_report_alone(entry: dict[str, Any]) -> None:
    calmed(entry)
    entry["checksum"] = blake3(json.dumps(entry["body"]).encode()).hexdigest()


def one_flag_less(entry: dict[str, Any]) -> None:
    gone = entry["body"]["flagged"].pop()
    row = next(row for row in entry["body"]["classes"] if row["label"] == gone["label"])
    row["flagged"] -= 1


@pytest.mark.parametrize("edit", [calmed, under_the_checksum_of_the_report_alone, one_flag_less])
def test_a_report_edited_by_hand_is_computed_anew(
    write: Write, tmp_path: Path, edit: Callable[[dict[str, Any]], None], caplog: pytest.LogCaptureFixture
) -> None:
    data = str(write())
    first = scan(data, ACCUSING, cache_dir=tmp_path / "cache")
    [path] = (tmp_path / "cache" / "reports").glob("*.json")
    entry = json.loads(path.read_bytes())
    edit(entry)
    path.write_text(json.dumps(entry))
    again = scan(data, ACCUSING, cache_dir=tmp_path / "cache")
    assert (again.verdict, again.from_cache) == ("poisoned", False)
    assert timeless(again) == timeless(first)
    assert "damaged and not used" in caplog.text


def test_a_report_on_other_data_is_not_taken_for_this_one(
    write: Write, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data, other = str(write()), str(write("other", noise(60)))
    scan(other, CALM, cache_dir=tmp_path / "theirs")
    scan(data, ACCUSING, cache_dir=tmp_path / "ours")
    [theirs], [ours] = ((tmp_path / name / "reports").glob("*.json") for name in ("theirs", "ours"))
    ours.write_bytes(theirs.read_bytes())
    assert scan(data, ACCUSING, cache_dir=tmp_path / "ours").verdict == "poisoned"
    assert "the checksum does not match" in caplog.text


def test_segments_in_each_others_places_are_read_anew(
    write: Write, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = str(write())
    first = scan(data, ACCUSING, cache_dir=tmp_path / "cache")
    one, two, _ = (tmp_path / "cache" / "segments").iterdir()
    for source, target in ((one, tmp_path / "aside"), (two, one), (tmp_path / "aside", two)):
        source.rename(target)
    again = scan(data, ACCUSING, cache_dir=tmp_path / "cache", refresh=True)
    assert timeless(again) == timeless(first)
    assert caplog.text.count("or that of another segment") == 2


def test_damaged_pixels_are_read_anew_when_they_are_wanted(
    write: Write, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = str(write())
    first = scan(data, ACCUSING, cache_dir=tmp_path / "cache")
    path = next((tmp_path / "cache" / "segments").glob("*/pixels.npy"))
    pixels = bytearray(path.read_bytes())
    pixels[-1] ^= 1
    path.write_bytes(pixels)
    assert scan(data, ACCUSING, cache_dir=tmp_path / "cache").from_cache
    assert caplog.records == []
    again = scan(data, ACCUSING, cache_dir=tmp_path / "cache", refresh=True)
    assert timeless(again) == timeless(first)
    assert [record.getMessage() for record in caplog.records] == [
        f"a stored segment was damaged and has been rebuilt: {path.parent.name}: pixels.npy does not match its checksum"
    ]
    scan(data, ACCUSING, cache_dir=tmp_path / "cache", refresh=True)
    assert len(caplog.records) == 1


def test_a_report_of_other_code_is_computed_anew(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = str(write())
    with monkeypatch.context() as older:
        older.setattr("vbdguard.scanner.build", lambda: "0.1.0+0000000000000000")
        scan(data, ACCUSING, cache_dir=tmp_path / "cache")
    assert not scan(data, ACCUSING, cache_dir=tmp_path / "cache").from_cache
    assert scan(data, ACCUSING, cache_dir=tmp_path / "cache").from_cache


def test_a_report_that_cannot_be_kept_is_given_all_the_same(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    Cache(tmp_path / "cache").prepare()
    monkeypatch.setattr("vbdguard.cache.write_atomically", full)
    report = scan(str(write()), ACCUSING, cache_dir=tmp_path / "cache")
    assert report.verdict == "poisoned"
    assert "this report is not kept" in caplog.text


def test_the_listener_hears_of_each_stage_in_order(write: Write, tmp_path: Path) -> None:
    heard: list[str] = []

    class Listening(Silent):
        def begin(self, stage: str, total: int | None) -> None:
            heard.append(stage)

    scan(str(write()), ACCUSING, cache_dir=tmp_path / "cache", progress=Listening())
    assert heard == list(STAGES)
