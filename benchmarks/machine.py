"""What a record says about where and by which code it was made."""

from __future__ import annotations

import platform
import subprocess
from functools import cache
from typing import Any

import torch


@cache
def commit() -> str:
    """Return the commit whose code runs; asked once, before the first run, since the checkout may move on."""
    answer = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return answer.stdout.strip()


def environment(device: str) -> dict[str, Any]:
    """Return device, machine, versions and commit."""
    return {
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else device,
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "commit": commit(),
    }
