"""Where stages 1 to 6 run and in which precision."""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Iterator

import torch

from vbdguard.errors import ConfigError

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h of the GNU C library
_KEEP = 1 << 30
_GLIBC_DEFAULT = 128 << 10


def resolve_device(name: str, *, needs_double: bool = False) -> torch.device:
    """Return the device that a setting names; `auto` takes CUDA, then MPS, then the processor.

    Args:
        name: `auto`, or as torch names devices.
        needs_double: whether it must compute in float64, which MPS does not.

    Raises:
        ConfigError: if the name is unknown, or the device is not there or cannot do it.
    """
    has_mps = torch.backends.mps.is_available()
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "mps" if has_mps and not needs_double else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"expected a device such as auto, cpu, cuda or mps, got {name!r}") from error
    n_there = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(has_mps)}
    if (device.index or 0) >= n_there.get(device.type, 0):
        raise ConfigError(f"device {name!r} is not available here; pass --device auto or cpu")
    if device.type == "mps" and needs_double:
        raise ConfigError("preset default computes in float64, which mps lacks; pass --device cpu, or --preset paper")
    return device


def activation_dtype(device: torch.device) -> torch.dtype:
    """Return bfloat16 where the hardware multiplies it natively, else float32.

    Stage 1 on two Zen 4 cores takes half the time in bfloat16; where it is emulated it is slower.
    """
    if device.type == "cuda":
        with torch.cuda.device(device):
            return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    if device.type == "cpu":
        has_bfloat16 = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
        return torch.bfloat16 if has_bfloat16 else torch.float32
    return torch.float32


@contextlib.contextmanager
def usual_torch() -> Iterator[None]:
    """Compute with torch's own defaults and the same algorithms each time, whatever a training script has set."""
    dtype, precision = torch.get_default_dtype(), torch.get_float32_matmul_precision()
    is_strict = torch.are_deterministic_algorithms_enabled()
    only_warns = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.set_default_dtype(torch.float32)
    torch.set_float32_matmul_precision("highest")
    # It refuses what it cannot promise on every device, such as the gradient of adaptive pooling on CUDA.
    torch.use_deterministic_algorithms(False)
    try:
        with (
            torch.device("cpu"),
            torch.inference_mode(False),
            torch.enable_grad(),
            torch.autocast("cpu", enabled=False),
            torch.autocast("cuda", enabled=False),
            torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False),
        ):
            yield
    finally:
        torch.set_default_dtype(dtype)
        torch.set_float32_matmul_precision(precision)
        torch.use_deterministic_algorithms(is_strict, warn_only=only_warns)


@contextlib.contextmanager
def large_buffers_reused() -> Iterator[None]:
    """Let the C library keep freed buffers of many megabytes for the next allocation.

    The GNU C library hands each large buffer back to the kernel, which must then clear its pages anew:
    half of the time of a training step on the processor. Elsewhere this does nothing.
    """
    libc = _gnu_c_library()
    if libc is None:
        yield
        return
    libc.mallopt(_M_MMAP_THRESHOLD, _KEEP)
    libc.mallopt(_M_TRIM_THRESHOLD, _KEEP)
    try:
        yield
    finally:
        libc.mallopt(_M_MMAP_THRESHOLD, _GLIBC_DEFAULT)
        libc.mallopt(_M_TRIM_THRESHOLD, _GLIBC_DEFAULT)
        libc.malloc_trim(0)


def give_back_freed() -> None:
    """Hand what is kept for reuse back to the system: the next piece of work has buffers of other sizes."""
    libc = _gnu_c_library()
    if libc is not None:
        libc.malloc_trim(0)


def _gnu_c_library() -> ctypes.CDLL | None:
    """Return the C library where it is GNU's, whose options are those above."""
    try:
        libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    except OSError:
        return None
    return libc if hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim") else None
