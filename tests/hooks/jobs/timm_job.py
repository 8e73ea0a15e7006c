"""One process of a timm job: guard, make timm's distributed loader, say which samples came."""

from __future__ import annotations

import json
import sys

import torch
from hook_data import QUICK
from timm.data import create_dataset, create_loader
from torch import distributed

from vbdguard.hooks.timm_guard import guard_timm


def main(folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo")
    dataset = guard_timm(create_dataset("", root=folder), config=QUICK)
    unchanged = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0), "no_aug": True, "crop_pct": 1.0}
    loader = create_loader(
        dataset,
        (3, 16, 16),
        8,
        distributed=True,
        num_workers=0,
        persistent_workers=False,
        use_prefetcher=False,
        **unchanged,
    )
    seen = [round(float(value) * 255) for images, _ in loader for value in images[:, 0, 0, 0]]
    distributed.barrier()
    distributed.destroy_process_group()
    sys.stdout.write(json.dumps(seen) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
