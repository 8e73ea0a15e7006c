"""One process of a job on WebDataset shards, split among the processes by webdataset; says which samples came."""

from __future__ import annotations

import json
import sys

import torch
import webdataset as wds
from hook_data import QUICK
from torch import distributed
from torch.utils.data import DataLoader

from vbdguard.hooks.pretrain import counts_of, guard_training


def main(shards: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo")
    stream = wds.WebDataset(shards, shardshuffle=False, nodesplitter=wds.split_by_node).to_tuple("__key__")
    stream = guard_training(stream, config=QUICK)
    seen = [int(key) for (keys,) in DataLoader(stream, batch_size=4) for key in keys]
    distributed.barrier()
    distributed.destroy_process_group()
    dropped = sum(counts_of(stream).total.dropped.values())
    sys.stdout.write(json.dumps({"seen": seen, "dropped": dropped}) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
