"""A guarded WebDataset pipeline: the plain pipeline minus the poison, in whatever way it is read."""

from __future__ import annotations

import copy
import gc
import json
import pickle
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import webdataset as wds
from torch.utils.data import DataLoader

from vbdguard.config import ScanConfig
from vbdguard.errors import ConfigError, PoisonFoundError, SourceError, UnscannedSampleError
from vbdguard.guards.policy import GuardWarning
from vbdguard.guards.stream import _handfuls, guard_webdataset

# webdataset leaves closing its files to the garbage collector.
pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:Exception ignored in. <_io:pytest.PytestUnraisableExceptionWarning"),
]

Make = Callable[..., Any]
Keys = Callable[[Any], Counter[str]]


def test_the_guarded_pipeline_yields_the_plain_one_minus_the_poison(shards: Any, plain: Make, keys_of: Keys) -> None:
    pipeline = plain(shards.urls)
    guarded = guard_webdataset(pipeline, **shards.options)
    assert type(guarded) is wds.WebDataset
    assert keys_of(guarded) == shards.kept_keys
    assert keys_of(pipeline) == shards.all_keys, "the user's own pipeline must stay as it was"


def test_samples_that_pass_are_the_very_same(shards: Any, plain: Make) -> None:
    before = {sample["__key__"]: sample for sample in plain(shards.urls)}
    for sample in guard_webdataset(plain(shards.urls), **shards.options):
        assert sample == before[sample["__key__"]]


@pytest.mark.parametrize(
    ("start", "is_persistent"), [(None, False), ("fork", False), ("fork", True), ("spawn", False), ("spawn", True)]
)
def test_workers_of_any_kind_yield_the_same_in_each_epoch(
    shards: Any, plain: Make, keys_of: Keys, start: str | None, is_persistent: bool
) -> None:
    workers: dict[str, Any] = {"num_workers": 2, "multiprocessing_context": start} if start else {}
    guarded = guard_webdataset(plain(shards.urls), **shards.options).shuffle(20).batched(7, collation_fn=collate)
    loader = wds.WebLoader(guarded, batch_size=None, persistent_workers=is_persistent, **workers)
    for _ in range(2):
        assert keys_of(loader) == shards.kept_keys
    counts = guarded.vbdguard.counts
    assert [entry.dropped for entry in counts.epochs] == [shards.dropped] * 2
    assert [entry.passed for entry in counts.epochs] == [shards.kept_keys.total()] * 2


collate = list
"""Spawned workers cannot import this module; a list of samples needs none of it."""


@pytest.fixture
def keys_of() -> Keys:
    """Count keys in samples, or in lists of samples."""

    def count(stream: Any) -> Counter[str]:
        found: Counter[str] = Counter()
        for one in stream:
            found.update(sample["__key__"] for sample in (one if isinstance(one, list) else [one]))
        return found

    return count


def test_a_decoding_pipeline_in_a_torch_loader_trains_on_the_kept_samples(shards: Any, plain: Make) -> None:
    guarded = guard_webdataset(plain(shards.urls).decode("torchrgb").to_tuple("png", "cls"), **shards.options)
    labels: Counter[int] = Counter()
    for images, classes in DataLoader(guarded, batch_size=8, num_workers=2, multiprocessing_context="fork"):
        assert images.shape[1:] == (3, 16, 16)
        labels.update(classes.tolist())
    all_labels = Counter(dict.fromkeys(range(3), 30))
    assert labels == all_labels - Counter(shards.dropped)


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy])
def test_a_copy_outlives_what_it_was_copied_from(
    shards: Any, plain: Make, keys_of: Keys, duplicate: Callable[[Any], Any]
) -> None:
    guarded = guard_webdataset(plain(shards.urls), **shards.options)
    report, twin = guarded.vbdguard.report, duplicate(guarded)
    del guarded
    gc.collect()
    assert keys_of(twin) == shards.kept_keys
    assert twin.vbdguard.counts.total.dropped == shards.dropped
    assert twin.vbdguard.report == report


def test_stages_after_the_guard_may_be_added_later(shards: Any, plain: Make) -> None:
    guarded = guard_webdataset(plain(shards.urls), **shards.options)
    longer = guarded.decode("pil").map(pick_size).to_tuple("png", "cls")
    assert {size for size, _ in longer} == {(16, 16)}
    assert longer.vbdguard.counts.total.passed == shards.kept_keys.total()


def pick_size(sample: dict[str, Any]) -> dict[str, Any]:
    return {**sample, "png": sample["png"].size}


def test_resampled_shards_never_bring_poison_back(shards: Any, keys_of: Keys) -> None:
    pipeline = wds.WebDataset(shards.urls, resampled=True, shardshuffle=False).with_epoch(200)
    guarded = guard_webdataset(pipeline, **shards.options)
    for _ in range(2):
        found = keys_of(guarded)
        assert found.total() == 200
        assert set(found) <= set(shards.kept_keys)
    assert [entry.passed for entry in guarded.vbdguard.counts.epochs] == [200, 200]


def test_stages_with_a_state_are_the_copys_own(shards: Any) -> None:
    pipeline = wds.WebDataset(shards.urls, resampled=True, shardshuffle=False).with_epoch(5)
    guarded = guard_webdataset(pipeline, **shards.options)
    list(guarded)
    assert pipeline.pipeline[0].epoch == -1


@pytest.mark.parametrize("splitters", [(), (wds.split_by_node, wds.split_by_worker)])
def test_pipelines_put_together_by_hand_are_guarded(shards: Any, keys_of: Keys, splitters: tuple[Any, ...]) -> None:
    paths = sorted(map(str, shards.folder.iterdir()))
    pipeline = wds.DataPipeline(wds.SimpleShardList(paths), *splitters, wds.tarfile_to_samples(), wds.shuffle(10))
    assert keys_of(guard_webdataset(pipeline, **shards.options)) == shards.kept_keys


def test_a_pipeline_inside_a_pipeline_is_guarded_where_it_is_raw(shards: Any, plain: Make, keys_of: Keys) -> None:
    pipeline = wds.DataPipeline(plain(shards.urls), wds.shuffle(10))
    guarded = guard_webdataset(pipeline, **shards.options)
    assert keys_of(guarded) == shards.kept_keys
    assert guarded.vbdguard.counts.total.dropped == shards.dropped
    assert keys_of(pipeline) == shards.all_keys


def test_a_guarded_pipeline_comes_back_as_it_is(shards: Any, plain: Make) -> None:
    guarded = guard_webdataset(plain(shards.urls), **shards.options).shuffle(5)
    assert guard_webdataset(guarded, **shards.options) is guarded


def test_a_pickled_pipeline_guards_alike_and_counts_together(shards: Any, plain: Make, keys_of: Keys) -> None:
    guarded = guard_webdataset(plain(shards.urls), **shards.options)
    assert keys_of(pickle.loads(pickle.dumps(guarded))) == shards.kept_keys
    assert guarded.vbdguard.counts.total.dropped == shards.dropped
    assert len(pickle.dumps(guarded)) < 10_000, "tables and reports must not travel to workers"


@pytest.mark.parametrize(
    "settings", [{"empty_check": False}, {"nodesplitter": wds.split_by_node}, {"workersplitter": None}]
)
def test_options_of_the_pipeline_make_no_difference(
    shards: Any, plain: Make, keys_of: Keys, settings: dict[str, Any]
) -> None:
    assert keys_of(guard_webdataset(plain(shards.urls, **settings), **shards.options)) == shards.kept_keys


def test_the_cache_of_remote_shards_stays_in_use(shards: Any, plain: Make, keys_of: Keys, tmp_path: Path) -> None:
    assert keys_of(guard_webdataset(plain(shards.urls, cache_dir=str(tmp_path)), **shards.options)) == shards.kept_keys


def test_selected_files_are_a_part_of_what_was_scanned(shards: Any, plain: Make, keys_of: Keys) -> None:
    pipeline = plain(shards.urls, select_files=has_even_key)
    expected = Counter(key for key in shards.kept_keys.elements() if has_even_key(key))
    assert keys_of(guard_webdataset(pipeline, **shards.options)) == expected


def has_even_key(name: str) -> bool:
    return int(Path(name).name.split(".")[0][1:]) % 2 == 0


def test_renamed_files_are_recognised_by_their_bytes(shards: Any, plain: Make, keys_of: Keys) -> None:
    pipeline = plain(shards.urls, rename_files=as_webp)
    assert keys_of(guard_webdataset(pipeline, **shards.options)) == shards.kept_keys


def as_webp(name: str) -> str:
    return name.replace(".png", ".webp")


def test_renamed_and_reordered_shards_lose_the_same_samples(copied: Any, plain: Make, keys_of: Keys) -> None:
    guarded = guard_webdataset(plain(copied.urls), **copied.options)
    paths = sorted(copied.folder.iterdir())
    contents = [path.read_bytes() for path in paths]
    for path, content in zip(paths, contents[1:] + contents[:1], strict=True):
        path.write_bytes(content)
    assert keys_of(guarded) == copied.kept_keys


def test_a_shard_listed_twice_is_read_twice(shards: Any, plain: Make, keys_of: Keys) -> None:
    paths = sorted(map(str, shards.folder.iterdir()))
    once = keys_of(guard_webdataset(plain(paths), **shards.options))
    assert keys_of(guard_webdataset(plain(paths + paths), **shards.options)) == once + once


def test_a_worker_that_has_nothing_left_is_no_error(
    shards: Any, copied: Any, plain: Make, unpack: Make, pack: Make
) -> None:
    """webdataset's own check takes a worker without samples for one without shards."""
    samples = [one for path in sorted(copied.folder.iterdir()) for one in unpack(path)]
    bad = [one for one in samples if one[0] in copied.flagged]
    good = [one for one in samples if one[0] not in copied.flagged]
    paths = [str(pack(copied.folder / "bad.tar", bad)), str(pack(copied.folder / "good.tar", good))]
    guarded = guard_webdataset(plain(paths), **copied.options).to_tuple("__key__")
    loader = wds.WebLoader(guarded, batch_size=None, num_workers=2, multiprocessing_context="fork")
    assert Counter(key for (key,) in loader) == shards.kept_keys


# What was never scanned


def altered(copied: Any, unpack: Make, pack: Make) -> str:
    """Change one byte of one image of one shard, behind the scan's back; return the sample's key."""
    path = sorted(copied.folder.iterdir())[1]
    samples = unpack(path)
    key, fields = samples[3]
    samples[3] = (key, {**fields, "png": fields["png"][:-1] + bytes([fields["png"][-1] ^ 1])})
    pack(path, samples)
    return f"{path.name}/{key}"


HANDLERS = [wds.reraise_exception, wds.ignore_and_continue, wds.ignore_and_stop]


@pytest.mark.parametrize(
    ("handler", "workers"), [*((handler, 0) for handler in HANDLERS), (wds.ignore_and_continue, 1)]
)
def test_a_shard_changed_after_the_scan_stops_training_whatever_the_handlers_say(
    copied: Any, plain: Make, unpack: Make, pack: Make, handler: Any, workers: int
) -> None:
    guarded = guard_webdataset(plain(copied.urls, handler=handler), **copied.options)
    key = altered(copied, unpack, pack)
    stream = (
        guarded.shuffle(10)
        .decode("pil", handler=handler)
        .map(same, handler=handler)
        .map_dict(handler=handler, cls=same)
        .rename(image="png", cls="cls", handler=handler)
        .to_tuple("image", "cls", handler=handler)
        .map_tuple(same, same, handler=handler)
    )
    context = "fork" if workers else None
    loader = DataLoader(stream, batch_size=None, num_workers=workers, multiprocessing_context=context)
    with pytest.raises(UnscannedSampleError, match=key):
        list(loader)


def same(value: Any) -> Any:
    return value


def test_a_shard_added_after_the_scan_stops_training(copied: Any, keys_of: Keys, pack: Make, shards: Any) -> None:
    listing = sorted(map(str, copied.folder.iterdir()))
    pipeline = wds.DataPipeline(wds.SimpleShardList(listing), wds.tarfile_to_samples())
    guarded = guard_webdataset(pipeline, **copied.options)
    fields = {"png": Path(listing[0]).read_bytes()[512:600], "cls": b"1"}
    guarded.pipeline[0].urls.append(str(pack(copied.folder / "late.tar", [("newcomer", fields)])))
    with pytest.raises(UnscannedSampleError, match=r"late.tar/newcomer.*scan"):
        list(guarded)


def test_shards_copied_after_the_scan_bring_no_poison_back(copied: Any, keys_of: Keys) -> None:
    """What they hold has been scanned under other names: kept samples come twice, flagged ones never."""
    paths = sorted(copied.folder.iterdir())
    pipeline = wds.DataPipeline(wds.SimpleShardList([*map(str, paths)]), wds.tarfile_to_samples())
    guarded = guard_webdataset(pipeline, **copied.options)
    once = copied.kept_keys
    for path in paths:
        twin = path.with_name(f"twin-{path.name}")
        twin.write_bytes(path.read_bytes())
        guarded.pipeline[0].urls.append(str(twin))
    assert keys_of(guarded) == once + once


def test_another_label_is_another_sample(copied: Any, plain: Make, unpack: Make, pack: Make) -> None:
    guarded = guard_webdataset(plain(copied.urls), **copied.options)
    path = sorted(copied.folder.iterdir())[0]
    samples = unpack(path)
    pack(path, [(key, {**fields, "cls": b"2"}) for key, fields in samples])
    with pytest.raises(UnscannedSampleError, match="with the label 2"):
        list(guarded)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"png": b"x", "jpg": b"y", "cls": b"0"}, "ambiguous-image"),
        ({"png": b"x"}, "no-label"),
        ({"cls": b"0"}, "no-image"),
        ({"txt": b"nothing of both"}, "no-image"),
    ],
)
def test_what_a_scan_refuses_is_unscanned(
    copied: Any, plain: Make, pack: Make, fields: dict[str, bytes], reason: str
) -> None:
    guarded = guard_webdataset(plain(copied.urls), **copied.options)
    pack(sorted(copied.folder.iterdir())[2], [("odd", fields)])
    with pytest.raises(UnscannedSampleError, match=f"odd.*{reason}"):
        list(guarded)


def test_unscanned_samples_can_be_dropped_and_are_counted(
    copied: Any, plain: Make, keys_of: Keys, unpack: Make, pack: Make
) -> None:
    guarded = guard_webdataset(plain(copied.urls), on_unscanned="drop", **copied.options)
    key = altered(copied, unpack, pack).split("/")[1]
    assert keys_of(guarded) == copied.kept_keys - Counter([key])
    assert guarded.vbdguard.counts.total.unscanned == 1


def test_unscanned_samples_pass_with_a_warning(
    copied: Any, plain: Make, keys_of: Keys, unpack: Make, pack: Make
) -> None:
    guarded = guard_webdataset(plain(copied.urls), on_unscanned="warn", **copied.options)
    key = altered(copied, unpack, pack)
    with pytest.warns(GuardWarning, match=key):
        found = keys_of(guarded)
    assert found == copied.kept_keys | Counter([key.split("/")[1]])


def test_an_endless_stream_of_which_nothing_passes_ends_with_an_error(
    copied: Any, unpack: Make, pack: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vbdguard.guards.screen._DROPS_IN_A_ROW", 500)
    pipeline = wds.WebDataset(copied.urls, resampled=True, shardshuffle=False)
    guarded = guard_webdataset(pipeline, on_unscanned="drop", **copied.options)
    for path in copied.folder.iterdir():
        pack(path, [("odd", {"png": b"x", "cls": b"0"})])
    with pytest.raises(UnscannedSampleError, match="in a row were dropped"):
        next(iter(guarded))


# Policies


def test_relabel_rewrites_the_raw_label(shards: Any, plain: Make) -> None:
    suggestions = {entry.key.rsplit("/")[-1]: entry.suggested_label for entry in shards.report.flagged}
    assert None not in suggestions.values()
    guarded = guard_webdataset(plain(shards.urls), on_poison="relabel", **shards.options)
    before = {sample["__key__"]: int(sample["cls"]) for sample in plain(shards.urls)}
    after = dict(guarded.decode("pil").to_tuple("__key__", "cls"))
    assert after == before | suggestions
    assert guarded.vbdguard.counts.total.relabelled == shards.dropped


def test_relabel_of_a_json_label_leaves_the_rest_of_it(copied: Any, plain: Make, unpack: Make, pack: Make) -> None:
    for path in copied.folder.iterdir():
        packed = [
            (k, {"png": f["png"], "json": json.dumps({"id": k, "label": int(f["cls"])}).encode()})
            for k, f in unpack(path)
        ]
        pack(path, packed)
    suggestions = {entry.key.rsplit("/")[-1]: entry.suggested_label for entry in copied.report.flagged}
    guarded = guard_webdataset(plain(copied.urls), on_poison="relabel", **copied.options)
    found = {sample["__key__"]: json.loads(sample["json"]) for sample in guarded}
    assert all(body["id"] == key for key, body in found.items())
    assert {key: found[key]["label"] for key in suggestions} == suggestions


def test_names_as_labels_are_relabelled_by_name(copied: Any, plain: Make, unpack: Make, pack: Make) -> None:
    names = ["ant", "bee", "cat"]
    for path in copied.folder.iterdir():
        packed = [(k, {"png": f["png"], "txt": names[int(f["cls"])].encode()}) for k, f in unpack(path)]
        pack(path, packed)
    config = ScanConfig(**{**vars_of(copied.options["config"]), "label_key": "txt"})
    guarded = guard_webdataset(plain(copied.urls), on_poison="relabel", config=config, cache_dir=copied.cache)
    suggestions = {e.key.rsplit("/")[-1]: names[e.suggested_label] for e in guarded.vbdguard.report.flagged}
    found = {sample["__key__"]: sample["txt"].decode() for sample in guarded}
    assert {key: found[key] for key in suggestions} == suggestions
    assert set(guarded.vbdguard.counts.total.relabelled) <= set(names)


def vars_of(config: ScanConfig) -> dict[str, Any]:
    return {name: getattr(config, name) for name in ("preset", "seed", "device", "jobs", "method")}


def test_warn_lets_everything_pass_and_counts_it(shards: Any, plain: Make, keys_of: Keys) -> None:
    with pytest.warns(GuardWarning, match="poisoned samples"):
        guarded = guard_webdataset(plain(shards.urls), on_poison="warn", **shards.options)
    assert keys_of(guarded) == shards.all_keys
    assert guarded.vbdguard.counts.total.let_pass == shards.dropped


def test_raise_stops_before_training(shards: Any, plain: Make) -> None:
    with pytest.raises(PoisonFoundError):
        guard_webdataset(plain(shards.urls), on_poison="raise", **shards.options)


def test_an_unknown_policy_is_refused_before_anything_is_read(plain: Make) -> None:
    with pytest.raises(ConfigError, match="on_poison must be one of"):
        guard_webdataset(plain("nowhere.tar"), on_poison="delete")  # type: ignore[arg-type]


# An earlier report


def test_a_report_from_an_earlier_scan_is_taken_without_training(
    shards: Any, plain: Make, keys_of: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("vbdguard.method.pipeline.detect")
    guarded = guard_webdataset(plain(shards.urls), report=shards.report, cache_dir=tmp_path)
    assert keys_of(guarded) == shards.kept_keys


def test_a_report_on_other_data_is_refused(copied: Any, plain: Make, unpack: Make, pack: Make) -> None:
    altered(copied, unpack, pack)
    with pytest.raises(UnscannedSampleError, match="that the report speaks of"):
        guard_webdataset(plain(copied.urls), report=copied.report, cache_dir=copied.cache)


def test_what_the_scan_could_not_read_stops_before_training(
    copied: Any, plain: Make, pack: Make, keys_of: Keys
) -> None:
    odd = str(pack(copied.folder / "odd.tar", [("odd", {"png": b"no image", "cls": b"0"})]))
    pipeline = plain([*sorted(map(str, copied.folder.iterdir()))])
    with pytest.raises(UnscannedSampleError, match="odd.*undecodable"):
        guard_webdataset(pipeline, **copied.options)
    guarded = guard_webdataset(pipeline, on_unscanned="drop", **copied.options)
    assert "odd" not in keys_of(guarded)
    assert Path(odd).exists()


# Pipelines that cannot be guarded


def test_commands_as_shards_are_refused_with_the_remedy(plain: Make) -> None:
    with pytest.raises(SourceError, match="commands are not run; download"):
        guard_webdataset(plain("pipe:cat train.tar"))


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        (lambda urls: [wds.SimpleShardList(urls)], "groups the files of a shard to samples once"),
        (lambda urls: [same, wds.tarfile_to_samples()], "begins with a list of shards"),
        (lambda urls: [], "with stages"),
    ],
)
def test_pipelines_whose_raw_samples_are_out_of_reach_are_refused(shards: Any, stages: Any, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        guard_webdataset(wds.DataPipeline(*stages(shards.urls)), **shards.options)


def test_a_loader_is_refused(shards: Any, plain: Make) -> None:
    with pytest.raises(SourceError, match="guard the dataset"):
        guard_webdataset(wds.WebLoader(plain(shards.urls), batch_size=None), **shards.options)


def test_a_folder_that_is_watched_is_refused(shards: Any) -> None:
    with pytest.raises(SourceError, match="name the shards"):
        guard_webdataset(wds.WebDataset(f"{shards.folder}/", shardshuffle=False), **shards.options)


def test_a_cache_that_was_filled_without_the_guard_is_refused(shards: Any, plain: Make, keys_of: Keys) -> None:
    pipeline = plain(shards.urls).decode("pil").mcached()
    guarded = guard_webdataset(pipeline, **shards.options)
    for _ in range(2):
        assert keys_of(guarded) == shards.kept_keys
    list(pipeline)
    with pytest.raises(SourceError, match="samples of an earlier run"):
        guard_webdataset(pipeline, **shards.options)


def test_a_cache_of_raw_samples_is_guarded_even_when_it_is_full(shards: Any, plain: Make, keys_of: Keys) -> None:
    pipeline = plain(shards.urls).mcached()
    list(pipeline)
    assert keys_of(guard_webdataset(pipeline, **shards.options)) == shards.kept_keys


@pytest.mark.parametrize("before", [0, 1, 5, 16, 17, 40])
def test_an_error_of_an_earlier_stage_comes_after_the_samples_before_it(before: int) -> None:
    def source() -> Any:
        yield from ({"jpg": bytes(number)} for number in range(before))
        raise OSError("the disk is gone")

    came: list[Any] = []
    with pytest.raises(OSError, match="the disk is gone"):
        came.extend(sample for handful in _handfuls(source()) for sample in handful)
    assert [len(sample["jpg"]) for sample in came] == list(range(before))


def test_large_samples_are_not_read_far_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vbdguard.guards.stream._READ_AHEAD", 1000)
    sizes = [len(handful) for handful in _handfuls([{"jpg": bytes(400)}] * 4 + [{"jpg": bytes(9999)}] * 3)]
    assert sizes == [1, 2, 2, 1, 1]
