"""Streams through the hooks: webdataset's pipelines in plain scripts, Lightning and two processes; the Trainer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import webdataset as wds
from hook_data import COUNT, QUICK, indices_of, make_tensors
from lightning_job import Net, make_trainer
from torch.utils.data import DataLoader, IterableDataset
from trainer_job import make_trainer as make_hugging_face_trainer

from vbdguard.hooks.inspecting import counts_of, is_guarded, report_of
from vbdguard.hooks.lightning_guard import GuardCallback
from vbdguard.hooks.pretrain import guard_training
from vbdguard.hooks.trainer_guard import guard_trainer
from vbdguard.sources.base import RawSample
from vbdguard.sources.writing import write_shards

pytestmark = [
    # webdataset leaves the shards that it opens to the garbage collector.
    pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:Exception ignored in.*FileIO:pytest.PytestUnraisableExceptionWarning"),
    # Lightning's own: it asks for more workers, pins memory for no accelerator, and calls what torch calls old.
    pytest.mark.filterwarnings("ignore:.*does not have many workers:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec:FutureWarning"),
    pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true but no accelerator:UserWarning"),
]


@pytest.fixture
def shards(tmp_path: Path) -> str:
    """Six shards of 15 samples, named by their index."""
    samples = [
        RawSample(f"{number:03d}", np.ascontiguousarray(image.permute(1, 2, 0)), int(label))
        for number, (image, label) in enumerate(make_tensors())
    ]
    write_shards(samples, tmp_path / "shards", per_shard=15, prefix="train")
    return str(tmp_path / "shards" / "train-{000000..000005}.tar")


def pipeline(shards: str) -> Any:
    return wds.WebDataset(shards, shardshuffle=False).decode("rgb8").to_tuple("png", "cls").map(to_tensor)


def to_tensor(sample: Any) -> Any:
    return torch.from_numpy(sample[0].copy()).permute(2, 0, 1), sample[1]


@pytest.fixture
def kept_keys(shards: str, own_cache: Path) -> list[int]:
    """The indices of the samples that a scan of the shards keeps."""
    stream = wds.WebDataset(shards, shardshuffle=False)
    keys = {int(entry.key.rsplit("/")[-1]) for entry in report_of(guard_training(stream, config=QUICK)).flagged}
    assert 0 < len(keys) < COUNT
    return sorted(set(range(COUNT)) - keys)


def test_a_pipeline_is_guarded_in_a_plain_script(shards: str, kept_keys: list[int]) -> None:
    stream = guard_training(pipeline(shards), config=QUICK)
    assert is_guarded(wds.WebLoader(stream))
    assert not is_guarded(wds.WebLoader(pipeline(shards)))
    assert [index for images, _ in DataLoader(stream, batch_size=8) for index in indices_of(images)] == kept_keys
    assert sum(counts_of(stream).total.dropped.values()) == COUNT - len(kept_keys)


def test_lightning_trains_on_a_loader_over_a_pipeline(shards: str, kept_keys: list[int]) -> None:
    model, callback = Net(), GuardCallback(config=QUICK)
    make_trainer(callbacks=[callback]).fit(model, DataLoader(pipeline(shards), batch_size=8))
    assert sorted(index for batch in model.seen for index in batch) == kept_keys
    assert sum(callback.counts.total.dropped.values()) == COUNT - len(kept_keys)


class Pairs(IterableDataset[Any]):
    """The samples as a stream of dicts."""

    def __iter__(self) -> Iterator[Any]:
        for image, label in make_tensors():
            yield {"pixel_values": image, "labels": int(label)}


def test_the_trainer_takes_a_guarded_stream(kept: list[int], tmp_path: Path) -> None:
    plain = Pairs()
    trainer, seen = make_hugging_face_trainer(plain, tmp_path, max_steps=len(kept) // 8)
    with guard_trainer(trainer, config=QUICK):
        trainer.train()
    assert seen == kept[: len(seen)]
    assert len(seen) >= len(kept) // 8 * 8
    assert trainer.train_dataset is plain


def test_two_processes_share_all_but_the_poison(
    shards: str, kept_keys: list[int], run_job: Callable[..., Any], read_all: Callable[..., Any]
) -> None:
    finished = run_job("stream_job.py", shards)
    ranks = read_all(finished)
    assert sorted([*ranks[0]["seen"], *ranks[1]["seen"]]) == kept_keys
    assert ranks[0]["dropped"] + ranks[1]["dropped"] == COUNT - len(kept_keys)
    assert [process.stderr.count("POISONED") for process in finished] == [1, 0]
