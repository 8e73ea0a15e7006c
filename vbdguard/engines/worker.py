"""One worker: a process of this machine, and the pipe to it.

Workers are spawned, since a forked child of a process with threads or a GPU may hang. A spawned child imports the
script that started it, so `vbdguard.scan()` at the top of a script without a `__main__` guard would run that script
again in each worker; `__main__` is therefore hidden while workers start. They need nothing from it.

A worker may be killed at any moment: it leaves nothing that anybody believes.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
import types
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection, wait
from typing import Any

from vbdguard.engines.limits import Limits, hold_to_memory
from vbdguard.errors import VBDGuardError

_SECONDS_TO_STOP = 0.5
_STARTING = threading.Lock()


class Worker:
    """A process that answers one item at a time.

    Args:
        limits: what an item may cost; None sets no bounds.
    """

    def __init__(self, limits: Limits | None) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.item = -1
        """Index of the item that it is at."""
        self.deadline = float("inf")
        """When it must have answered, on the monotonic clock."""
        self._limits = limits
        self._function: Callable[[Any], Any] | None = None
        self._process = context.Process(target=_serve, args=(theirs, limits), daemon=True)
        with _hidden_main(), _blocked_interrupt():
            self._process.start()
        theirs.close()  # or the end of the pipe would not show when the worker dies

    def give(self, function: Callable[[Any], Any], index: int, item: Any) -> None:
        """Hand it an item; a worker that is dead already shows when its answer is awaited."""
        self.item = index
        if self._limits is not None:
            self.deadline = time.monotonic() + self._limits.seconds
        fresh = None if function is self._function else function
        self._function = function
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.connection.send((fresh, item))

    def kill(self) -> None:
        """End it, whatever it is at; `join` waits for that."""
        self._process.kill()

    def join(self) -> None:
        """Wait until it is gone, though not long for one that even the system cannot stop."""
        self._process.join(_SECONDS_TO_STOP)
        self.connection.close()

    def last_word(self) -> str:
        """Say how the process ended."""
        code = self._process.exitcode
        if code is not None and code < 0:
            return f"signal {-code}" + (" (out of memory?)" if -code == signal.SIGKILL else "")
        return f"exit code {code}"


def _serve(connection: Connection, limits: Limits | None) -> None:
    """Answer items until the pipe closes; Ctrl-C is the parent's to handle."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # Before numpy is loaded: a worker computes nothing with it, and the stacks of 64 threads would count as memory.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    if limits is not None:
        hold_to_memory(limits)
    function: Callable[[Any], Any] | None = None
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            fresh, item = connection.recv()
            function = fresh or function
            connection.send(answered(function, item))


def answered(function: Callable[[Any], Any] | None, item: Any) -> tuple[bool, Any]:
    """Return whether the function had a result, and that or the error."""
    try:
        if function is None:
            raise RuntimeError("expected a function before the first item")
        return True, function(item)
    except VBDGuardError as error:
        return False, error
    except Exception:
        return False, traceback.format_exc()


def _end_with_parent() -> None:
    """End this process as soon as its parent has gone: nobody waits for the shard that it is at."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


@contextlib.contextmanager
def _hidden_main() -> Iterator[None]:
    """Show `multiprocessing.spawn.get_preparation_data` an empty `__main__`, which it does not import again."""
    with _STARTING:
        main = sys.modules["__main__"]
        sys.modules["__main__"] = types.ModuleType("__main__")
        try:
            yield
        finally:
            sys.modules["__main__"] = main


@contextlib.contextmanager
def _blocked_interrupt() -> Iterator[None]:
    """Let a child be born with SIGINT blocked: before it can ignore Ctrl-C, it would print a traceback."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    from multiprocessing import resource_tracker

    resource_tracker.ensure_running()  # starting it would unblock SIGINT again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
