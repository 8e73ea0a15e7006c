"""What the machine itself can do: decode images, hash bytes, multiply matrices. The limits that a scan is held against.

    python -m benchmarks.speed_limits SHARDS 2

Each limit is the plainest loop over the same bytes, which lie in memory already, on as many processes as the scan
reads with; from the moment when all of them are ready to that when the last is done. As a command it prints JSON; the
processes that it starts load no torch, as those of a benchmark that has loaded it would.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Barrier
from typing import Any, TypeVar

import numpy as np
from blake3 import blake3
from PIL import Image

from benchmarks.speed_watch import watch
from vbdguard.ingest.digest import sample_digest
from vbdguard.sources.base import RawSample
from vbdguard.sources.opening import open_source

Loaded = TypeVar("Loaded")

_SIDE = {"cpu": 2048, "cuda": 8192}
_MULTIPLICATIONS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Seconds that the same bytes take without us."""

    processes: int
    decode: float
    """Pillow alone: every image to RGB pixels, on all processes."""
    hash_shards: float
    """BLAKE3 alone: every shard file, on all processes."""
    hash_samples: float
    """`sample_digest` of every image, on one process ..."""
    hash_samples_limit: float
    """... and BLAKE3 of the same bytes in one call."""

    def to_dict(self) -> dict[str, float]:
        """Return the figures JSON-ready."""
        return {name: round(value, 6) for name, value in asdict(self).items()}


def limits_in_own_process(folder: Path, processes: int) -> dict[str, float]:
    """Return what `measure_limits` does, JSON-ready, from the command.

    Raises:
        CommandFailedError: if it could not complete.
    """
    watched = watch([sys.executable, "-m", "benchmarks.speed_limits", str(folder), str(processes)])
    figures: dict[str, float] = json.loads(watched.stdout)
    return figures


def measure_limits(folder: Path, processes: int) -> Limits:
    """Return the limits for the shards of a folder."""
    own, limit = _hash_samples(folder)
    return Limits(
        processes=processes,
        decode=_on_all(_decode, folder, processes),
        hash_shards=_on_all(_hash_shards, folder, processes),
        hash_samples=own,
        hash_samples_limit=limit,
    )


def matmul_rate(dtype: str, device: str) -> float:
    """Return operations per second of the best of a few large matrix products, 2 n³ operations each.

    Args:
        dtype: such as `bfloat16`.
        device: `cpu` or `cuda`, with the threads that torch has been given.
    """
    import torch

    side = _SIDE.get(device, _SIDE["cpu"])
    a, b = (torch.rand(side, side, device=device).to(getattr(torch, dtype)) for _ in range(2))
    seconds = []
    for _ in range(_MULTIPLICATIONS):
        start = time.perf_counter()
        (a @ b)[0, 0].item()  # waits for a GPU
        seconds.append(time.perf_counter() - start)
    return 2 * float(side) ** 3 / min(seconds)


def _on_all(work: Callable[[Path, int, int, Any], float], folder: Path, processes: int) -> float:
    """Return the seconds of the slowest of several processes that share the work and start it together."""
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager, ProcessPoolExecutor(processes, mp_context=context) as pool:
        ready = manager.Barrier(processes)
        return max(pool.map(work, *zip(*[(folder, part, processes, ready) for part in range(processes)], strict=True)))


def _decode(folder: Path, part: int, parts: int, ready: Barrier) -> float:
    def load() -> list[bytes]:
        return [image for number, (image, _) in enumerate(_files(folder)) if number % parts == part]

    def work(images: list[bytes]) -> None:
        for image in images:
            np.asarray(Image.open(io.BytesIO(image)).convert("RGB"))

    return _together(load, work, ready)


def _hash_shards(folder: Path, part: int, parts: int, ready: Barrier) -> float:
    def load() -> list[bytes]:
        # Cut, so that two files keep sixteen processes busy.
        contents = (path.read_bytes() for path in sorted(folder.iterdir()))
        return [content[len(content) * part // parts : len(content) * (part + 1) // parts] for content in contents]

    def work(contents: list[bytes]) -> None:
        for content in contents:
            blake3(content).digest()

    return _together(load, work, ready)


def _together(load: Callable[[], Loaded], work: Callable[[Loaded], None], ready: Barrier) -> float:
    """Load, wait until all processes have loaded, and return the seconds of the work."""
    try:
        loaded = load()
    except BaseException:
        ready.abort()  # or the others would wait for ever
        raise
    ready.wait()
    return _seconds(lambda: work(loaded))


def _hash_samples(folder: Path) -> tuple[float, float]:
    """Return the seconds of our digest of every sample, and of the hash alone over the same bytes."""
    files = list(_files(folder))
    joined = b"".join(image for image, _ in files)

    def digest_each() -> None:
        for image, label in files:
            sample_digest(image, label)

    return _seconds(digest_each), _seconds(lambda: blake3(joined).digest())


def _files(folder: Path) -> Iterator[tuple[bytes, int | str]]:
    """Yield the encoded images of shards with their labels."""
    for shard in open_source(str(folder)).shards:
        for entry in shard.read():
            if isinstance(entry, RawSample) and isinstance(entry.image, bytes):
                yield entry.image, entry.label


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of shards")
    parser.add_argument("processes", type=int)
    args = parser.parse_args()
    print(json.dumps(measure_limits(args.folder, args.processes).to_dict()))


if __name__ == "__main__":
    main()
