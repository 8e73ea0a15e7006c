"""The guard in Lightning's own Trainer."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hook_data import COUNT, QUICK, make_tensors
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.utilities import CombinedLoader
from lightning_job import Data, Net, NetWithLoader, make_loader, make_trainer
from torch.utils.data import DataLoader

from vbdguard.errors import PoisonFoundError, VBDGuardError
from vbdguard.hooks.lightning_guard import GuardCallback, guard_datamodule

# Lightning's own: it asks for more workers, pins memory for no accelerator, and calls what torch calls old.
pytestmark = [
    pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true but no accelerator:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec:FutureWarning"),
]
JOB = Path(__file__).parent / "jobs" / "lightning_job.py"


def seen_by(model: Net) -> list[int]:
    return sorted(index for batch in model.seen for index in batch)


def test_loaders_given_to_fit_are_guarded(kept: list[int]) -> None:
    callback, model, loader = GuardCallback(config=QUICK), Net(), make_loader()
    trainer = make_trainer(callbacks=[callback])
    trainer.fit(model, loader)
    assert seen_by(model) == kept
    assert callback.counts.total.passed == len(kept)
    assert len(callback.report.flagged) == COUNT - len(kept)
    assert trainer.fit_loop._data_source.instance is loader


def test_spawned_workers_yield_the_same(kept: list[int]) -> None:
    model = Net()
    loader = make_loader(num_workers=1, multiprocessing_context="spawn", persistent_workers=True)
    make_trainer(callbacks=[GuardCallback(config=QUICK, quiet=True)]).fit(model, loader)
    assert seen_by(model) == kept


def test_a_module_that_brings_its_data_is_guarded_and_given_back(kept: list[int]) -> None:
    model = NetWithLoader()
    make_trainer(callbacks=[GuardCallback(config=QUICK)]).fit(model)
    assert seen_by(model) == kept
    assert "train_dataloader" not in vars(model)
    assert len(model.train_dataloader().dataset) == COUNT


def test_a_datamodule_is_guarded_and_given_back(kept: list[int]) -> None:
    model, data = Net(), Data()
    make_trainer(callbacks=[GuardCallback(config=QUICK)]).fit(model, datamodule=data)
    assert seen_by(model) == kept
    assert len(data.train_dataloader().dataset) == COUNT


def test_several_loaders_are_guarded_each(kept: list[int]) -> None:
    class Two(Net):
        def training_step(self, batch: Any, index: int) -> torch.Tensor:
            return super().training_step(batch["a"], index) + super().training_step(batch["b"][0], index)

    model = Two()
    loaders = CombinedLoader({"a": make_loader(), "b": [make_loader()]}, "min_size")
    make_trainer(callbacks=[GuardCallback(config=QUICK)]).fit(model, loaders)
    assert seen_by(model) == sorted([*kept, *kept])


def test_loaders_that_are_made_anew_each_epoch_stay_guarded(kept: list[int]) -> None:
    model = NetWithLoader()
    trainer = make_trainer(callbacks=[GuardCallback(config=QUICK)], reload_dataloaders_every_n_epochs=1)
    trainer.fit_loop.max_epochs = 2
    trainer.fit(model)
    assert seen_by(model) == sorted([*kept, *kept])


def test_everything_is_given_back_when_training_fails() -> None:
    class Failing(NetWithLoader):
        def training_step(self, batch: Any, _: int) -> torch.Tensor:
            raise RuntimeError("out of luck")

    model = Failing()
    with pytest.raises(RuntimeError, match="out of luck"):
        make_trainer(callbacks=[GuardCallback(config=QUICK)]).fit(model)
    assert "train_dataloader" not in vars(model)


def test_poison_stops_fit_under_raise() -> None:
    model = Net()
    with pytest.raises(PoisonFoundError):
        make_trainer(callbacks=[GuardCallback(config=QUICK, on_poison="raise")]).fit(model, make_loader())
    assert model.seen == []


def test_a_guard_that_was_taken_off_is_noticed_before_the_first_batch() -> None:
    class TakesOver(Callback):
        def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            trainer.fit_loop._data_source.instance = make_loader()

    model = Net()
    with pytest.raises(VBDGuardError, match="not the guarded one"):
        make_trainer(callbacks=[GuardCallback(config=QUICK), TakesOver()]).fit(model, make_loader())
    assert model.seen == []


def test_a_callback_without_a_fit_has_no_report() -> None:
    with pytest.raises(VBDGuardError, match="call trainer.fit first"):
        _ = GuardCallback().report


def test_a_guarded_datamodule_trains_without_the_poison_and_leaves_the_plain_one_alone(
    kept: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    model, data = Net(), Data()
    guarded = guard_datamodule(data, config=QUICK)
    assert isinstance(guarded, Data)
    make_trainer().fit(model, datamodule=guarded)
    assert seen_by(model) == kept
    assert capsys.readouterr().err.count("POISONED") == 1
    assert not hasattr(data, "train_data")


def test_a_datamodule_made_of_datasets_is_guarded_too(kept: list[int]) -> None:
    model = Net()
    data = LightningDataModule.from_datasets(make_tensors(), batch_size=8, num_workers=0)
    make_trainer().fit(model, datamodule=guard_datamodule(data, config=QUICK))
    assert seen_by(model) == kept


def test_a_guarded_datamodule_survives_pickling(kept: list[int]) -> None:
    guarded = pickle.loads(pickle.dumps(guard_datamodule(Data(), config=QUICK, quiet=True)))
    guarded.setup("fit")
    loader = guarded.train_dataloader()
    assert isinstance(loader, DataLoader)
    assert len(loader.dataset) == len(kept)


@pytest.mark.parametrize(
    ("way", "strategy"), [("loader", "ddp"), ("datamodule", "ddp_spawn"), ("guarded-datamodule", "ddp_spawn")]
)
def test_two_processes_share_all_but_the_poison(way: str, strategy: str, kept: list[int], tmp_path: Path) -> None:
    command = [sys.executable, str(JOB), way, strategy, str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    ranks = [json.loads((tmp_path / f"rank-{rank}.json").read_text()) for rank in range(2)]
    assert sorted({*ranks[0], *ranks[1]}) == kept
    # Lightning's DistributedSampler gives each rank the same number.
    assert [len(rank) for rank in ranks] == [-(-len(kept) // 2)] * 2
    assert done.stderr.count("POISONED") == 1
