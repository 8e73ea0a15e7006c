"""One process of a plain training job: guard, iterate, say which samples came.

The first argument says what happens on the way; what it means stands beside the tests.
"""

from __future__ import annotations

import json
import os
import sys
import time
from datetime import timedelta
from typing import Any

import torch
from hook_data import COUNT, QUICK, indices_of, make_tensors
from torch import distributed
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from vbdguard.hooks.pretrain import guard_training

RANK = int(os.environ["RANK"])
EVENTS = ("nothing", "poison", "death", "late", "slow", "other-data", "no-group")


class Eventful(Dataset[Any]):
    """The samples; reading one of them may take its time, or be the end of its process."""

    def __init__(self, event: str) -> None:
        self.inner = make_tensors(seed=RANK if event == "other-data" else 0)
        self.event = event if RANK == 0 else "nothing"

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, index: int) -> Any:
        if self.event == "death":
            os._exit(7)
        if self.event == "slow":
            time.sleep(0.1)
        return self.inner[index]


def main(event: str) -> None:
    torch.set_num_threads(1)
    data = Eventful(event)
    sampler = None
    if event != "no-group":
        distributed.init_process_group("gloo")
        sampler = DistributedSampler(data, seed=3)
    if event == "late" and RANK == 0:
        time.sleep(8)
    guarded = guard_training(
        DataLoader(data, batch_size=8, sampler=sampler),
        on_poison="raise" if event == "poison" else "drop",
        config=QUICK,
        patience=timedelta(seconds=2 if event in ("late", "slow") else 300),
    )
    seen = [index for images, _ in guarded for index in indices_of(images)]
    if event != "no-group":
        distributed.barrier()
        distributed.destroy_process_group()
    sys.stdout.write(json.dumps(seen) + "\n")


if __name__ == "__main__":
    assert sys.argv[1] in EVENTS
    main(sys.argv[1])
