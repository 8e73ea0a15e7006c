"""Streams of other libraries, through the libraries themselves."""

from __future__ import annotations

import io
import pickle
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import litdata
import pytest
import webdataset as wds
from PIL import Image
from torch.utils.data import DataLoader

from vbdguard.errors import CacheError, SourceError, UnscannedSampleError
from vbdguard.guards.streaming_libraries import guard_streaming_library

pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:Exception ignored in. <_io:pytest.PytestUnraisableExceptionWarning"),
]

Examples = list[tuple[bytes, int]]


@pytest.fixture(scope="session")
def examples(shards: Any) -> Examples:
    """Encoded images and labels."""
    stream = wds.WebDataset(shards.urls, shardshuffle=False).to_tuple("png", "cls")
    return [(image, int(label)) for image, label in stream]


# Hugging Face


@pytest.fixture(scope="session")
def parquet(examples: Examples, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The examples in three parquet files, with the features that such files have on the Hub."""
    folder = tmp_path_factory.mktemp("parquet")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["ant", "bee", "cat"])})
    for number in range(3):
        part = examples[number * 30 : (number + 1) * 30]
        columns = {
            "image": [{"bytes": image, "path": None} for image, _ in part],
            "label": [label for _, label in part],
        }
        datasets.disable_progress_bars()
        datasets.Dataset.from_dict(columns, features=features).to_parquet(folder / f"part-{number}.parquet")
    return folder


@pytest.fixture
def stream(parquet: Path) -> Any:
    return load(parquet)


def load(folder: Path) -> Any:
    files = sorted(map(str, folder.glob("*.parquet")))
    return datasets.load_dataset("parquet", data_files=files, split="train", streaming=True)


def tally(items: Any) -> Counter[tuple[bytes, int]]:
    return Counter((item["image"].convert("RGB").tobytes(), int(item["label"])) for item in items)


def expected(examples: Examples, report: Any, *, relabels: bool = False) -> Counter[tuple[bytes, int]]:
    from vbdguard.ingest.digest import sample_digest

    flagged = {entry.digest: entry.suggested_label for entry in report.flagged}
    assert 0 < len(flagged) < len(examples)
    found: Counter[tuple[bytes, int]] = Counter()
    for image, label in examples:
        digest = sample_digest(image, label).hex()
        if digest in flagged and not relabels:
            continue
        found[Image.open(io.BytesIO(image)).convert("RGB").tobytes(), flagged.get(digest, label)] += 1
    return found


def test_a_hugging_face_stream_stays_one_and_loses_the_poison(stream: Any, examples: Examples, shards: Any) -> None:
    guarded = guard_streaming_library(stream, **shards.options)
    assert type(guarded) is datasets.IterableDataset
    assert guarded.features == stream.features
    assert tally(guarded) == expected(examples, guarded.vbdguard.report)
    assert sum(tally(stream).values()) == 90


def test_its_own_methods_go_on_working(stream: Any, examples: Examples, shards: Any) -> None:
    guarded = guard_streaming_library(stream, **shards.options)
    longer = guarded.shuffle(seed=1, buffer_size=10).map(upright)
    assert tally(longer) == expected(examples, guarded.vbdguard.report)


def upright(example: dict[str, Any]) -> dict[str, Any]:
    return {**example, "image": example["image"].rotate(0)}


def test_epochs_and_workers_of_a_hugging_face_stream_are_counted(stream: Any, shards: Any) -> None:
    guarded = guard_streaming_library(stream, **shards.options)
    count = 90 - len(guarded.vbdguard.report.flagged)
    loader = DataLoader(guarded, batch_size=None, num_workers=2, multiprocessing_context="fork")
    for _ in range(2):
        assert sum(1 for _ in loader) == count
    assert [entry.passed for entry in guarded.vbdguard.counts.epochs] == [count, count]
    assert guarded.vbdguard.counts.total.dropped == {
        label: 2 * number for label, number in Counter(e.label for e in guarded.vbdguard.report.flagged).items()
    }


def test_a_hugging_face_stream_is_relabelled(stream: Any, examples: Examples, shards: Any) -> None:
    guarded = guard_streaming_library(stream, on_poison="relabel", **shards.options)
    assert guarded.features == stream.features
    assert tally(guarded) == expected(examples, guarded.vbdguard.report, relabels=True)


def test_the_format_of_a_hugging_face_stream_stays(stream: Any, shards: Any) -> None:
    guarded = guard_streaming_library(stream.with_format("torch"), **shards.options)
    example = next(iter(guarded))
    assert tuple(example["image"].shape) == (3, 16, 16)
    assert sum(1 for _ in guarded) == 90 - len(guarded.vbdguard.report.flagged)


def test_a_file_changed_after_the_scan_stops_a_hugging_face_stream(parquet: Path, shards: Any, tmp_path: Path) -> None:
    for path in parquet.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    guarded = guard_streaming_library(load(tmp_path), **shards.options)
    first, second, *_ = sorted(tmp_path.glob("*.parquet"))
    rows = datasets.Dataset.from_parquet(str(first), cache_dir=str(tmp_path / "cache"))
    changed = rows.map(lambda row: {"label": (row["label"] + 1) % 3}, load_from_cache_file=False)
    changed.to_parquet(second)
    with pytest.raises(UnscannedSampleError, match="IterableDataset/30"):
        list(load_again(guarded))


def load_again(stream: Any) -> Any:
    """A stream as a new process would see it, without files that are open already."""
    return pickle.loads(pickle.dumps(stream))


def test_a_cleared_cache_stops_a_new_worker_of_a_hugging_face_stream(stream: Any, shards: Any, tmp_path: Path) -> None:
    guarded = guard_streaming_library(stream, config=shards.options["config"], cache_dir=tmp_path)
    content = pickle.dumps(guarded)
    for table in (tmp_path / "tables").iterdir():
        table.unlink()
    with pytest.raises(CacheError, match="must stay until training ends"):
        pickle.loads(content)


def test_a_stream_behind_a_map_is_refused_with_the_remedy(stream: Any, shards: Any) -> None:
    with pytest.raises(SourceError, match="guard what load_dataset"):
        guard_streaming_library(stream.map(upright), **shards.options)


def test_a_stream_without_a_known_label_is_refused_with_the_columns(stream: Any, shards: Any) -> None:
    with pytest.raises(SourceError, match="got image, animal"):
        guard_streaming_library(stream.rename_column("label", "animal"), **shards.options)


# litdata


class Made:
    """Makes the items of a litdata set; a class, since litdata pickles it."""

    def __init__(self, examples: Examples) -> None:
        self.examples = examples

    def __call__(self, index: int) -> dict[str, Any]:
        image, label = self.examples[index]
        return {"image": image, "label": label}


@pytest.fixture(scope="session")
def optimized(examples: Examples, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """The function that writes examples as a litdata set."""

    def write(content: Examples = examples) -> Path:
        folder = tmp_path_factory.mktemp("litdata")
        options: dict[str, Any] = {"chunk_size": 20, "num_workers": 1, "start_method": "fork", "verbose": False}
        litdata.optimize(fn=Made(content), inputs=list(range(len(content))), output_dir=str(folder), **options)
        return folder

    return write


def pictures(items: Any) -> Counter[tuple[bytes, int]]:
    return tally({"image": Image.open(io.BytesIO(item["image"])), "label": item["label"]} for item in items)


LITDATA = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # litdata's own, of torch and of fork with threads
    pytest.mark.filterwarnings("ignore::UserWarning:litdata"),
]


class TestLitdata:
    pytestmark = LITDATA

    def test_it_stays_a_streaming_dataset_and_loses_the_poison(
        self, optimized: Any, examples: Examples, shards: Any
    ) -> None:
        plain = litdata.StreamingDataset(str(optimized()))
        guarded = guard_streaming_library(plain, **shards.options)
        assert type(guarded) is litdata.StreamingDataset
        report = guarded.vbdguard.report
        assert len(guarded) == 90 - len(report.flagged)
        assert pictures(guarded) == expected(examples, report)
        assert guarded.vbdguard.counts.total.dropped == Counter(entry.label for entry in report.flagged)
        assert len(plain) == 90

    def test_two_processes_share_out_all_of_it(
        self, optimized: Any, examples: Examples, shards: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """In a distributed training a dataset is only as long as the part of one process."""
        folder, found, kept = str(optimized()), Counter[tuple[bytes, int]](), 0
        for rank in (0, 1):
            env = litdata.utilities.env._DistributedEnv(2, rank, 1)
            monkeypatch.setattr(litdata.utilities.env._DistributedEnv, "detect", classmethod(lambda _, env=env: env))
            guarded = guard_streaming_library(litdata.StreamingDataset(folder), **shards.options)
            report = guarded.vbdguard.report
            found += pictures(guarded)
            kept = report.dataset.samples - len(report.flagged)
        assert report.dataset.samples == 90
        assert not found - expected(examples, report)
        assert kept - found.total() < 2  # what does not go into two equal parts, litdata drops

    def test_its_own_loader_shuffles_and_splits_it_among_workers(
        self, optimized: Any, examples: Examples, shards: Any
    ) -> None:
        plain = litdata.StreamingDataset(str(optimized()), shuffle=True)
        guarded = guard_streaming_library(plain, **shards.options)
        loader = litdata.StreamingDataLoader(guarded, batch_size=4, num_workers=2, collate_fn=list)
        found = pictures(item for batch in loader for item in batch)
        assert found == expected(examples, guarded.vbdguard.report)

    def test_transforms_come_after_the_check(self, optimized: Any, shards: Any) -> None:
        plain = litdata.StreamingDataset(str(optimized()), transform=label_only)
        guarded = guard_streaming_library(plain, **shards.options)
        assert set(guarded) <= {0, 1, 2}
        assert len(list(guarded)) == 90 - len(guarded.vbdguard.report.flagged)

    def test_relabelled_items_bear_the_suggested_class(self, optimized: Any, examples: Examples, shards: Any) -> None:
        guarded = guard_streaming_library(
            litdata.StreamingDataset(str(optimized())), on_poison="relabel", **shards.options
        )
        assert pictures(guarded) == expected(examples, guarded.vbdguard.report, relabels=True)

    def test_a_chunk_changed_after_the_scan_stops_it(self, optimized: Any, examples: Examples, shards: Any) -> None:
        folder = optimized()
        guarded = guard_streaming_library(litdata.StreamingDataset(str(folder)), **shards.options)
        other = optimized([(image, (label + 1) % 3) for image, label in examples])
        for path in folder.glob("*.bin"):
            path.write_bytes((other / path.name).read_bytes())
        with pytest.raises(UnscannedSampleError, match="no scan has seen"):
            list(guarded)

    def test_its_loader_is_refused_with_the_remedy(self, optimized: Any, shards: Any) -> None:
        loader = litdata.StreamingDataLoader(litdata.StreamingDataset(str(optimized())), batch_size=2)
        with pytest.raises(SourceError, match="guard the dataset inside"):
            guard_streaming_library(loader, **shards.options)


def label_only(item: dict[str, Any]) -> int:
    return int(item["label"])


# MosaicML


def test_mosaicmls_streams_are_refused_with_the_remedy() -> None:
    StreamingDataset = type("StreamingDataset", (), {"__module__": "streaming.base.dataset"})
    with pytest.raises(SourceError, match="MDSWriter"):
        guard_streaming_library(StreamingDataset())
