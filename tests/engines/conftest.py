"""A Ray cluster of this machine that all tests of a session share, as a training job would find one."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

FUNCTIONS = """
import os, signal, sys, time
from dataclasses import dataclass
from pathlib import Path
import numpy as np
from vbdguard.errors import ReadError
from vbdguard.sources.base import RawSample

def square(x): return x * x
def process(x): time.sleep(0.2); return os.getpid()
def place(x): return os.getcwd(), sys.path
def die(x):
    if x == 1: os.kill(os.getpid(), signal.SIGKILL)
    return x
def refuse(x): raise ReadError("reason", f"detail {x}")
def fail(x): raise ZeroDivisionError(f"item {x}")
def hang(x):
    while x == 1: pass
    return x
def sleep(x): Path(x).write_text(str(os.getpid())); time.sleep(60)
def first_or_sleep(x): return sleep(x) if x else x
def count(x): return int(x.sum())

def lose_worker(mark, times):
    # the process that does the work is a child of Ray's worker
    with open(mark, "a") as file: file.write("x")
    if Path(mark).stat().st_size <= times: os.kill(os.getppid(), signal.SIGKILL); time.sleep(60)

def at_last(item):
    lose_worker(*item)
    return "at last"

@dataclass
class LosingShard:
    "A shard, in whose midst Ray's worker dies so many times."
    inner: object
    mark: str = ""
    times: int = 0

    @property
    def name(self): return self.inner.name
    def digest(self): return self.inner.digest()
    def read(self):
        for number, entry in enumerate(self.inner.read()):
            if self.mark and number == 40: lose_worker(self.mark, self.times)
            yield entry

@dataclass
class DyingShard(LosingShard):
    "A shard that takes down whoever reads it."
    def read(self):
        for number, entry in enumerate(self.inner.read()):
            if number == 40: os.kill(os.getpid(), signal.SIGKILL)
            yield entry
"""


@pytest.fixture(scope="session")
def functions(ray_cluster: ModuleType) -> ModuleType:
    """A module that both engines' workers can import."""
    return import_module("vbdguard_engine_functions")


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[ModuleType]:
    """Connect this process to a cluster of two processors; the tests that ask for it skip where Ray is missing."""
    ray: ModuleType = pytest.importorskip("ray", reason="the extra `ray` is not installed")
    folder = tempfile.mkdtemp(prefix="vbd-test-")
    modules = Path(folder, "modules")
    modules.mkdir()
    (modules / "vbdguard_engine_functions.py").write_text(FUNCTIONS)
    sys.path.insert(0, str(modules))
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("PYTHONPATH", str(modules), prepend=os.pathsep)  # for Ray's workers
        patch.chdir(folder)  # or Ray lets them import from where the tests are run, too
        warnings.simplefilter("ignore")  # Ray's own
        ray.init(
            address="local",
            num_cpus=2,
            object_store_memory=100 << 20,
            include_dashboard=False,
            configure_logging=False,
            log_to_driver=False,
            _temp_dir=folder,
        )
    yield ray
    ray.shutdown()
    sys.path.remove(str(modules))
    shutil.rmtree(folder, ignore_errors=True)
