"""The guard in the Hugging Face Trainer, with a vision transformer that really trains."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
from hook_data import COUNT, QUICK, Named
from torch.utils.data import DataLoader
from trainer_job import collate, make_table, make_trainer
from transformers import Trainer

from vbdguard.errors import PoisonFoundError, SourceError, VBDGuardError
from vbdguard.guards.dataset import GuardedDataset
from vbdguard.hooks.trainer_guard import guard_trainer

# transformers looks at the machine: it has no accelerator to pin memory for.
pytestmark = pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true but no accelerator:UserWarning")


@pytest.fixture
def kept_rows(own_cache: Path) -> list[int]:
    """The indices that a scan of the table keeps."""
    rows: list[int] = GuardedDataset(make_table(), config=QUICK).kept_indices.tolist()
    assert 0 < len(rows) < COUNT
    return rows


@pytest.mark.parametrize("drops_columns", [True, False])
def test_a_table_stays_a_table_and_loses_the_poison(drops_columns: bool, kept_rows: list[int], tmp_path: Path) -> None:
    table = make_table()
    trainer, seen = make_trainer(table, tmp_path, remove_unused_columns=drops_columns)
    with guard_trainer(trainer, config=QUICK) as guard:
        assert type(trainer.train_dataset) is datasets.Dataset
        batch = next(iter(trainer.get_train_dataloader()))
        assert ("comment" in batch) is not drops_columns
        trainer.train()
    assert sorted(seen) == kept_rows
    assert sum(guard.counts.total.dropped.values()) == COUNT - len(kept_rows)
    assert trainer.train_dataset is table


@pytest.mark.parametrize("drops_columns", [True, False])
def test_a_torch_dataset_loses_the_poison(drops_columns: bool, kept: list[int], tmp_path: Path) -> None:
    data = Named()
    trainer, seen = make_trainer(data, tmp_path, remove_unused_columns=drops_columns)
    with guard_trainer(trainer, config=QUICK, quiet=True):
        trainer.train()
    assert sorted(seen) == kept
    assert trainer.train_dataset is data


def test_spawned_workers_yield_the_same(kept: list[int], tmp_path: Path) -> None:
    workers = {"dataloader_num_workers": 1, "dataloader_multiprocessing_context": "spawn"}
    trainer, seen = make_trainer(Named(), tmp_path, dataloader_persistent_workers=True, **workers)
    with guard_trainer(trainer, config=QUICK):
        trainer.train()
    assert sorted(seen) == kept


def test_undo_gives_the_data_back_and_takes_the_watch_away(tmp_path: Path) -> None:
    data = Named()
    trainer, _ = make_trainer(data, tmp_path)
    before = list(trainer.callback_handler.callbacks)
    guard = guard_trainer(trainer, config=QUICK)
    assert trainer.train_dataset is not data
    guard.undo()
    guard.undo()
    assert trainer.train_dataset is data
    assert trainer.callback_handler.callbacks == before


def test_the_data_are_given_back_when_training_fails(tmp_path: Path) -> None:
    data = Named()
    trainer, _ = make_trainer(data, tmp_path)
    trainer.model.vit = None
    with pytest.raises(TypeError), guard_trainer(trainer, config=QUICK):
        trainer.train()
    assert trainer.train_dataset is data


def test_poison_stops_under_raise_and_leaves_the_trainer_as_it_was(tmp_path: Path) -> None:
    data = Named()
    trainer, _ = make_trainer(data, tmp_path)
    with pytest.raises(PoisonFoundError):
        guard_trainer(trainer, config=QUICK, on_poison="raise")
    assert trainer.train_dataset is data


def test_a_trainer_that_loads_something_else_is_stopped_before_the_first_step(tmp_path: Path) -> None:
    class Elsewhere(Trainer):
        def get_train_dataloader(self) -> DataLoader[Any]:
            return DataLoader(make_table(), batch_size=8, collate_fn=collate)

    trainer, seen = make_trainer(make_table(), tmp_path, kind=Elsewhere)
    with guard_trainer(trainer, config=QUICK), pytest.raises(VBDGuardError, match="get_train_dataloader is overridden"):
        trainer.train()
    assert seen == []


def test_the_same_rows_under_other_labels_are_something_else(tmp_path: Path) -> None:
    """Where flagged samples are relabelled, none is missing from the guarded table."""

    class Elsewhere(Trainer):
        def get_train_dataloader(self) -> DataLoader[Any]:
            return DataLoader(make_table(), batch_size=8, collate_fn=collate)

    trainer, seen = make_trainer(make_table(), tmp_path, kind=Elsewhere)
    guard = guard_trainer(trainer, config=QUICK, on_poison="relabel")
    assert len(trainer.train_dataset) == len(make_table())
    with guard, pytest.raises(VBDGuardError, match="get_train_dataloader is overridden"):
        trainer.train()
    assert seen == []


def test_a_trainer_without_training_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="without: there is nothing to guard"):
        guard_trainer(make_trainer(None, tmp_path)[0])


@pytest.mark.parametrize("way", ["table", "dataset"])
def test_two_processes_share_all_but_the_poison(
    way: str, kept: list[int], kept_rows: list[int], run_job: Callable[..., Any], tmp_path: Path
) -> None:
    finished = run_job("trainer_job.py", way, "True", str(tmp_path))
    assert [process.returncode for process in finished] == [0, 0], finished[0].stderr + finished[1].stderr
    ranks = [json.loads((tmp_path / f"rank-{rank}.json").read_text()) for rank in range(2)]
    # accelerate fills the last batches up with the first samples, so that the ranks take equal steps
    assert sorted({*ranks[0], *ranks[1]}) == (kept_rows if way == "table" else kept)
    assert len(ranks[0]) == len(ranks[1]) < COUNT
    assert [process.stderr.count("POISONED") for process in finished] == [1, 0]
