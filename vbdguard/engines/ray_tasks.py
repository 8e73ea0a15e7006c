"""Tasks of a Ray cluster: the engine for data that one machine is too slow for (extra `ray`).

One plain task per item. Within a task a process of that node does the work under the limits of one item, as the local
engine's do: what a shard does to its reader comes back in the same words. Workers and nodes that are lost are Ray's
to replace; it tries an item anew up to `MAX_RETRIES` times.

Where a cluster is there, in `RAY_ADDRESS`, by `ray start` on this machine or connected to already, it is used and goes
on afterwards. Otherwise one is started on this machine, which ends with the scan; where that is interrupted or killed,
with the process.
"""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import chdir, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from vbdguard import __version__
from vbdguard.build import build
from vbdguard.engines.base import Item, Result, WorkerDied, processors
from vbdguard.engines.limits import Limits
from vbdguard.engines.local import Workers
from vbdguard.engines.worker import answered
from vbdguard.errors import ConfigError, VBDGuardError

MAX_RETRIES = 3
"""Ray's own number; unlike a process of this machine, a node may be taken away at any time for no fault of an item."""
_AHEAD = 2
"""Tasks for each processor that Ray is handed at once: the next one waits on the node, not here."""
_SECONDS_PER_WAIT = 0.5
"""After so long a look at how large the cluster is now."""
_SECONDS_TO_CANCEL = 0.5
_OBJECT_STORE = 128 << 20
"""Bytes for a cluster of our own, whose workers hand over names of files; Ray would take a third of the memory."""
_LONGEST_FOLDER = 36
"""Ray puts sockets below its folder, and the system allows them 107 bytes."""


class RayTasks:
    """Tasks of the cluster that is there, or of one of our own, for as long as the `with` block lasts.

    Args:
        jobs: how many run at once, at most; None leaves it to the cluster.
        limits: what one item may cost; None sets no bounds.

    Raises:
        ConfigError: on entering, if Ray is not installed, or no cluster answers at the address that is named.
    """

    def __init__(self, jobs: int | None, limits: Limits | None = None) -> None:
        self._jobs = jobs
        self._limits = limits
        self._ray: Any = None
        self._is_ours = False
        """Whether to disconnect afterwards."""
        self._folder = ""
        """Where a cluster of our own has its sockets and logs; otherwise it stays empty."""

    def __enter__(self) -> Self:
        try:
            import ray
        except ImportError as error:
            raise ConfigError(f"--engine ray needs Ray: pip install 'vbdguard[ray]' ({error})") from error
        self._ray = ray
        if not ray.is_initialized():
            self._is_ours = True
            self._folder = tempfile.mkdtemp(prefix="vbd-ray-")
            atexit.register(shutil.rmtree, self._folder, ignore_errors=True)
            atexit.unregister(ray.shutdown)  # it would take longer than what is to be removed behind it may wait
            try:
                with _own_signals(), chdir(self._folder):
                    self._connect(self._folder)
            except Exception:
                self._leave()
                raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Who presses Ctrl-C does not wait until Ray has left in order: what we have started ends with the process.
        if kind is None or issubclass(kind, Exception):
            self._leave()

    def _leave(self) -> None:
        if not self._is_ours:
            return
        try:
            self._ray.shutdown()
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)
            atexit.register(self._ray.shutdown, _exiting_interpreter=True)  # as Ray itself does

    def map(
        self, function: Callable[[Item], Result], items: Sequence[Item]
    ) -> Generator[tuple[int, Result | WorkerDied], None, None]:
        """Yield (index, function(item)) for every item, in the order of completion; see `base.Engine`.

        Closing the iterator cancels what has not finished.

        Raises:
            ConfigError: if the nodes cannot run this version of vbdguard.
            VBDGuardError: as the function raises it.
            RuntimeError: if the function raises anything else; the message holds the traceback.
        """
        task = self._ray.remote(max_retries=MAX_RETRIES, num_cpus=1)(_run)
        shared = self._ray.put(function)
        here = _Here(build(), str(Path.cwd()))
        left = iter(range(len(items)))
        running: dict[Any, int] = {}
        try:
            while True:
                for index in islice(left, max(0, self._room() - len(running))):
                    running[task.remote(here, shared, items[index], self._limits)] = index
                if not running:
                    return
                done, _ = self._ray.wait(list(running), timeout=_SECONDS_PER_WAIT)
                for reference in done:
                    index = running.pop(reference)
                    yield index, self._result(reference)
        finally:
            self._cancel(list(running))

    def _connect(self, folder: str) -> None:
        """Connect, or start a cluster in a folder that is the working directory meanwhile.

        Ray puts the working directory on the path from which its workers import, and that may be a folder of data.
        """
        quiet: dict[str, Any] = {"configure_logging": False, "log_to_driver": False}
        address = os.environ.get("RAY_ADDRESS")
        try:
            if address:
                self._ray.init(address=address, **quiet)
            else:
                self._start_or_join(folder, quiet)
        except ConnectionError as error:
            raise ConfigError(
                f"expected a Ray cluster at {address or 'the address that `ray start` left'}, none answers: "
                f"{_first_line(error)}; start it, or leave RAY_ADDRESS unset for one on this machine (`ray stop` "
                "forgets one that has gone)"
            ) from error

    def _start_or_join(self, folder: str, quiet: dict[str, Any]) -> None:
        # Not address="auto": that joins any cluster of this machine, also the one that another scan is about to end.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a scan tells nobody of itself
        ours: dict[str, Any] = {
            "num_cpus": self._jobs or processors(),
            "object_store_memory": _OBJECT_STORE,
            "include_dashboard": False,
            **({"_temp_dir": folder} if len(folder) <= _LONGEST_FOLDER else {}),
        }
        try:
            self._ray.init(**ours, **quiet)
        except ValueError:  # `ray start` has left one here, whose size is not ours to choose
            self._ray.init(**quiet)

    def _room(self) -> int:
        """Return how many tasks Ray may have at a time."""
        if self._jobs is not None:
            return self._jobs
        return max(1, _AHEAD * int(self._ray.cluster_resources().get("CPU", 0)))

    def _result(self, reference: Any) -> Any:
        """Return what a task has come to.

        Raises:
            VBDGuardError, RuntimeError: as `map`.
        """
        errors = self._ray.exceptions
        try:
            is_result, value = self._ray.get(reference)
        except (errors.RayTaskError, errors.RaySystemError, errors.RuntimeEnvSetupError) as error:
            # Our own code answers with its errors; this one rose before it, in what Ray makes of the task.
            raise ConfigError(
                f"expected Ray's workers to run vbdguard, they cannot: {_last_line(error)}; install vbdguard "
                f"{__version__} and what it needs on every node"
            ) from error
        except errors.RayError as error:
            how = f"Ray lost the worker that read it {1 + MAX_RETRIES} times, at last by {type(error).__name__}"
            return WorkerDied(f"{how}: {_first_line(error)}")
        if isinstance(value, VBDGuardError) and not is_result:
            raise value
        if not is_result:
            raise RuntimeError(f"a Ray worker failed:\n{value}")
        return value

    def _cancel(self, references: list[Any]) -> None:
        for reference in references:
            self._ray.cancel(reference, force=True)
        if references:
            self._ray.wait(references, num_returns=len(references), timeout=_SECONDS_TO_CANCEL)


@dataclass(frozen=True, slots=True)
class _Here:
    """What a node must have in common with this process."""

    build: str
    folder: str
    """The working directory: shards may be named from there."""


def _run(here: _Here, function: Callable[[Any], Any], item: Any, limits: Limits | None) -> tuple[bool, Any]:
    """Return whether the function had a result, and that or the error; runs on a node of the cluster."""
    if here.build != build():
        wanted = f"expected vbdguard {here.build}, as the scan has it, on every node of the Ray cluster, got {build()}"
        return False, ConfigError(f"{wanted}; install the same version everywhere")
    with suppress(OSError):  # a node that does not have it says for each shard what it cannot find
        os.chdir(here.folder)
    if limits is None:
        return answered(function, item)

    def apart(one: Any) -> Any:
        [(_, result)] = _process(limits).map(function, [one])
        return result

    return answered(apart, item)


@cache
def _process(limits: Limits) -> Workers:
    """Return the process that does the work of this Ray worker: started once, gone with it."""
    return Workers(1, limits)


@contextmanager
def _own_signals() -> Iterator[None]:
    """Keep the handlers that are set: connecting, Ray puts one of its own on SIGTERM."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    is_stopped = False
    try:
        yield
    except SystemExit:  # so Ray's handler answers SIGTERM
        is_stopped = True
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if is_stopped:
            signal.raise_signal(signal.SIGTERM)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _last_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]
