"""Two processes with gloo: together they train on each kept sample, and never on a flagged one."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import vbdguard
from vbdguard.report import ScanReport

from .conftest import make_report

COUNT = 24
FLAGGED = (1, 4, 10, 11)
KEPT = [index for index in range(COUNT) if index not in FLAGGED]
EPOCHS = 2


def images() -> TensorDataset:
    """Uint8 images (24, 3, 4, 4) whose every pixel is their number, of two classes."""
    numbers = torch.arange(COUNT)
    return TensorDataset(numbers.to(torch.uint8)[:, None, None, None].expand(COUNT, 3, 4, 4).clone(), numbers % 2)


def train(rank: int, rendezvous: str, results: str, report: ScanReport) -> None:
    """Train a linear model on this rank's share and write down which samples each epoch held."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    data = images()
    sampler: DistributedSampler[Any] = DistributedSampler(data, shuffle=True, seed=3)
    loader = vbdguard.guard(DataLoader(data, batch_size=4, sampler=sampler), report=report)
    model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(48, 2))
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-4)
    epochs = []
    for epoch in range(EPOCHS):
        sampler.set_epoch(epoch)  # the script's own variable, made before the guard
        drawn: list[int] = []
        for batch, labels in loader:
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(model(batch.flatten(1) / 255), labels).backward()
            optimiser.step()
            drawn += batch[:, 0, 0, 0].tolist()
        epochs.append(drawn)
    torch.save((epochs, model.module.weight.detach()), Path(results) / f"{rank}.pt")
    dist.destroy_process_group()


def test_two_ranks_train_on_each_kept_sample_once_an_epoch(tmp_path: Path) -> None:
    data = images()
    pairs = [(image.permute(1, 2, 0).contiguous().numpy(), int(label)) for image, label in data]
    report = make_report(pairs, dict.fromkeys(FLAGGED))
    mp.spawn(train, args=(str(tmp_path / "rendezvous"), str(tmp_path), report), nprocs=2)
    (first, weights), (second, other_weights) = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    for epoch in range(EPOCHS):
        # 20 samples share out evenly, so that the sampler pads nothing.
        assert Counter(first[epoch] + second[epoch]) == Counter(KEPT)
        assert len(first[epoch]) == len(second[epoch])
    assert first[0] != first[1]
    assert torch.equal(weights, other_weights)
