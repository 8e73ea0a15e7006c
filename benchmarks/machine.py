"""What a record says about where and by which code it was made, and the memory that a run took."""

from __future__ import annotations

import platform
import re
import resource
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import numpy
import torch

import vbdguard

_ROOT = Path(__file__).parents[1]
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@cache
def commit() -> str:
    """Return the commit whose code runs, "+" behind it where code differs; asked once, as the checkout may move on."""
    answer = _git("rev-parse", "--short", "HEAD").stdout.strip()
    differs = _git("diff", "--quiet", "HEAD", "--", "vbdguard/*.py", "benchmarks/*.py").returncode == 1
    return f"{answer}+" if differs else answer


def environment(device: str) -> dict[str, Any]:
    """Return device, machine, versions and commit."""
    instructions = torch.backends.cpu.get_cpu_capability()  # they decide about speed, and about half precision
    return {
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else device,
        "machine": f"{platform.machine()}, {instructions}, {torch.get_num_threads()} threads",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "vbdguard": vbdguard.__version__,
        "commit": commit(),
    }


def forget_peak(device: torch.device) -> None:
    """Begin to measure peak memory anew; on systems other than Linux the process's peak stays what it was."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    try:
        _CLEAR.write_text("5")  # proc(5): resets the peak resident set size
    except OSError:
        return


def peak_memory(device: torch.device) -> dict[str, int]:
    """Return the peak since `forget_peak` in MB: of the process, and of the GPU's tensors where there is one."""
    memory = {"peak_memory_mb": _peak_resident_kb() // 1024}
    if device.type == "cuda":
        memory["peak_gpu_memory_mb"] = torch.cuda.max_memory_allocated(device) // 2**20
    return memory


def _peak_resident_kb() -> int:
    if _STATUS.exists():
        found = re.search(r"VmHWM:\s+(\d+) kB", _STATUS.read_text())
        if found:
            return int(found[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _git(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", *arguments], capture_output=True, text=True, check=False, cwd=_ROOT)
