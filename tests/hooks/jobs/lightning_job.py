"""A Lightning job of two processes, which Lightning starts itself; each writes down which samples it trained on.

The arguments: how the data come (loader, module, datamodule, guarded-datamodule), the strategy, and where to write.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from hook_data import QUICK, indices_of, make_tensors
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from torch.utils.data import DataLoader

from vbdguard.hooks.lightning_guard import GuardCallback, guard_datamodule


class Net(LightningModule):
    """One linear layer that remembers what it has seen, batch by batch."""

    def __init__(self, notes: Path | None = None) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(3 * 16 * 16, 3)
        self.notes = notes
        self.seen: list[list[int]] = []

    def training_step(self, batch: Any, _: int) -> torch.Tensor:
        images, labels = batch
        self.seen.append(indices_of(images))
        return torch.nn.functional.cross_entropy(self.layer(images.flatten(1) / 255), labels)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)

    def on_train_end(self) -> None:
        if self.notes is not None:
            (self.notes / f"rank-{self.global_rank}.json").write_text(
                json.dumps([index for batch in self.seen for index in batch])
            )


class NetWithLoader(Net):
    """Brings its training data along."""

    def train_dataloader(self) -> Any:
        return make_loader()


class Data(LightningDataModule):
    """Makes its dataset in setup, as the documentation of Lightning wants it."""

    def setup(self, stage: str) -> None:
        self.train_data = make_tensors()

    def train_dataloader(self) -> Any:
        return DataLoader(self.train_data, batch_size=8, shuffle=True)


def make_loader(**options: Any) -> DataLoader[Any]:
    return DataLoader(make_tensors(), batch_size=8, shuffle=True, **options)


def make_trainer(**options: Any) -> Trainer:
    silent = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return Trainer(accelerator="cpu", max_epochs=1, enable_model_summary=False, **silent, **options)


def main(way: str, strategy: str, notes: Path) -> None:
    torch.set_num_threads(1)
    callbacks = [] if way == "guarded-datamodule" else [GuardCallback(config=QUICK)]
    trainer = make_trainer(devices=2, strategy=strategy, callbacks=callbacks)
    if way == "loader":
        trainer.fit(Net(notes), make_loader())
    elif way == "module":
        trainer.fit(NetWithLoader(notes))
    elif way == "datamodule":
        trainer.fit(Net(notes), datamodule=Data())
    else:
        trainer.fit(Net(notes), datamodule=guard_datamodule(Data(), config=QUICK))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
