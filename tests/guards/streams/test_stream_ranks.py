"""Two ranks with gloo, each with its part of the shards: together they see what is kept, and they end together."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

RANK = '''
"""One rank: trains a DDP model on its guarded part; prints the keys it met, and how many steps it made."""
import json, os, sys
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
import webdataset as wds
from torch.nn.parallel import DistributedDataParallel
import vbdguard
from vbdguard.guards.equal_steps import equal_steps
from vbdguard.report import ScanReport

rank, store, urls, report, cache = int(sys.argv[1]), *sys.argv[2:]
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2, timeout=timedelta(seconds=60))
pipeline = wds.WebDataset(urls, shardshuffle=False, nodesplitter=wds.split_by_node)
stream = vbdguard.guard(pipeline, report=ScanReport.from_json(Path(report).read_text()), cache_dir=cache)
keys = [sample["__key__"] for sample in stream]
model = DistributedDataParallel(torch.nn.Linear(16 * 16 * 3, 3))
steps = 0
for images, labels in equal_steps(stream.decode("torchrgb").to_tuple("png", "cls").batched(4)):
    torch.nn.functional.cross_entropy(model(images.flatten(1)), torch.as_tensor(labels)).backward()
    steps += 1
print(json.dumps({"keys": keys, "steps": steps, "passed": stream.vbdguard.counts.epochs[0].passed}))
sys.stdout.flush()
os._exit(0)
'''


def test_two_ranks_train_on_the_kept_samples_and_end_together(shards: Any, tmp_path: Path) -> None:
    (tmp_path / "rank.py").write_text(RANK)
    (tmp_path / "report.json").write_text(shards.report.to_json())
    words = [tmp_path / "store", shards.urls, tmp_path / "report.json", shards.cache]
    ranks = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", tmp_path / "rank.py", str(rank), *words], stdout=subprocess.PIPE, text=True
        )
        for rank in range(2)
    ]
    try:
        first, second = (json.loads(rank.communicate(timeout=180)[0]) for rank in ranks)
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
    assert Counter(first["keys"]) + Counter(second["keys"]) == shards.kept_keys
    assert len(first["keys"]) != len(second["keys"]), "the test needs ranks of unequal length"
    assert (first["passed"], second["passed"]) == (len(first["keys"]), len(second["keys"]))
    fewer = min(len(first["keys"]), len(second["keys"]))
    assert first["steps"] == second["steps"] == -(-fewer // 4)
