"""Shards that hang, kill their reader or eat its memory: each costs itself, and the report names it."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from vbdguard.engines.limits import Limits
from vbdguard.errors import UnreadableError
from vbdguard.ingest.reader import Ingested, ingest
from vbdguard.sources.shards import ShardSource

SHARDS = """
import os, signal, time
from dataclasses import dataclass
import numpy as np
from vbdguard.sources.base import RawSample

@dataclass
class Shard:
    name: str
    fault: str = ""
    after: int = 0  # samples, before the fault
    healed: str = ""  # a file; where it stands there is no fault

    def digest(self): return None

    def read(self):
        for number in range(6):
            if self.fault and number == self.after and not (self.healed and os.path.exists(self.healed)):
                getattr(self, self.fault)()
            pixels = np.full((8, 8, 3), 40 * number + len(self.name), np.uint8)
            yield RawSample(f"{self.name}-{number}", pixels, number % 2)

    def hang(self):
        while True: pass
    def stop(self): os.kill(os.getpid(), signal.SIGSTOP)
    def crash(self): os.kill(os.getpid(), signal.SIGSEGV)
    def kill(self): os.kill(os.getpid(), signal.SIGKILL)
    def leave(self): os._exit(0)
    def grow(self): self.held = bytearray(2 << 30)
    def recurse(self): self.recurse()
"""

LIMITS = Limits(seconds=4, memory_bytes=1 << 30)
REASONS = {
    "hang": "timeout",
    "stop": "timeout",
    "crash": "worker-died",
    "kill": "worker-died",
    "leave": "worker-died",
    "grow": "out-of-memory",
    "recurse": "error",
}


@pytest.fixture
def shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Return a module that workers can import: they are handed this process's sys.path."""
    name = f"shards_{os.getpid()}_{abs(hash(tmp_path))}"
    (tmp_path / f"{name}.py").write_text(SHARDS)
    monkeypatch.syspath_prepend(str(tmp_path))
    return __import__(name)


Read = Callable[..., Ingested]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    def reading(*shards: object, jobs: int = 2, image_size: tuple[int, int] | None = None) -> Ingested:
        source = ShardSource(("shards",), shards)
        return ingest(source, store_dir=tmp_path / "store", jobs=jobs, limits=LIMITS, image_size=image_size)

    return reading


@pytest.mark.skipif(sys.platform != "linux", reason="signals and RLIMIT_DATA as Linux has them")
@pytest.mark.parametrize("fault", REASONS)
@pytest.mark.parametrize("at", ["the first look", "the reading"])
def test_a_shard_that_takes_its_reader_down_costs_itself(shards: ModuleType, read: Read, fault: str, at: str) -> None:
    # Image headers are looked at first where no size is named.
    size = None if at == "the first look" else (8, 8)
    good = [shards.Shard(name) for name in ("a", "bb", "ccc")]
    done = read(*good[:2], shards.Shard("bad", fault, 4), good[2], image_size=size)
    assert [(entry.key, entry.reason) for entry in done.skipped] == [("bad", REASONS[fault])]
    assert done.status == "incomplete"
    assert {shard.name: shard.status for shard in done.shards} == {
        "a": "complete",
        "bb": "complete",
        "ccc": "complete",
        "bad": "unreadable",
    }
    assert len(done.store) == 18


def test_a_shard_that_hangs_is_waited_for_once(shards: ModuleType, read: Read) -> None:
    begun = time.monotonic()
    done = read(shards.Shard("a"), shards.Shard("bad", "hang"))
    assert time.monotonic() - begun < 2 * LIMITS.seconds
    [entry] = done.skipped
    assert entry.detail == (
        "the process that read it gave no answer within 4 seconds; give it more time (--shard-timeout) or leave it out"
    )


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_single_shard_that_crashes_is_unreadable_and_not_a_crash(shards: ModuleType, read: Read, jobs: int) -> None:
    with pytest.raises(UnreadableError, match=r"bad: worker-died: .* by signal 11"):
        read(shards.Shard("bad", "crash"), jobs=jobs)


def test_a_lost_shard_is_not_remembered(shards: ModuleType, read: Read, tmp_path: Path) -> None:
    good, bad = shards.Shard("a"), shards.Shard("bad", "kill", 2, str(tmp_path / "healed"))
    lost = read(good, bad)
    (tmp_path / "healed").touch()
    healed = read(good, bad)
    assert (lost.status, healed.status) == ("incomplete", "complete")
    assert lost.dataset_digest != healed.dataset_digest
    assert len(healed.store) == 12
