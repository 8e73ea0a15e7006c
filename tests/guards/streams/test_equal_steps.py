"""Ranks with unequal shards train together to the end."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from vbdguard.guards.equal_steps import equal_steps

RANK = '''
"""One rank: trains a DDP model on its own number of batches; prints how many steps it made."""
import os, sys
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from vbdguard.errors import VBDGuardError
from vbdguard.guards.equal_steps import equal_steps

rank, store, mode = int(sys.argv[1]), sys.argv[2], sys.argv[3]
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2, timeout=timedelta(seconds=20))
model = DistributedDataParallel(torch.nn.Linear(4, 1))


def batches():
    for number in range(6 if rank == 0 else 3):
        if mode == "failing" and rank == 1 and number == 2:
            raise ValueError("a sample that no scan has seen")
        yield torch.ones(2, 4) * number


steps = 0
try:
    for _ in range(1 if mode == "failing" else 2):
        for x in equal_steps(batches()) if mode != "plain" else batches():
            model(x).sum().backward()
            steps += 1
    print("ended", steps)
except (ValueError, VBDGuardError) as error:
    print(type(error).__name__, steps)
except RuntimeError as error:
    print("hung", steps)
os._exit(0)
'''


def run_ranks(folder: Path, mode: str) -> list[str]:
    script = folder / "rank.py"
    script.write_text(RANK)
    command = [sys.executable, "-W", "ignore", str(script)]
    ranks = [
        subprocess.Popen([*command, str(rank), str(folder / "store"), mode], stdout=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    try:
        return [rank.communicate(timeout=120)[0].strip() for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()


def test_ranks_with_unequal_shards_stop_together_in_each_epoch(tmp_path: Path) -> None:
    assert run_ranks(tmp_path, "equal") == ["ended 6", "ended 6"]


def test_a_rank_that_fails_takes_the_others_with_it_after_the_step_they_share(tmp_path: Path) -> None:
    assert run_ranks(tmp_path, "failing") == ["VBDGuardError 2", "ValueError 2"]


@pytest.mark.parametrize("batches", [[], [1, 2, 3]])
def test_without_a_process_group_it_is_the_loader(batches: list[int]) -> None:
    assert list(equal_steps(batches)) == batches
