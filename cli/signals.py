"""How a command ends on a signal: within two seconds, workers stopped, nothing half-written left, a code that tells.

Python hands a signal to the main thread between two steps of its own; one step of torch may take longer than anybody
waits who has pressed Ctrl-C. A second thread watches the signals, and ends the process where the main one does not.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

_SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))
_SECONDS_TO_UNWIND = 1.2
_SECONDS_TO_TIDY = 0.4


class StoppedError(BaseException):
    """A signal asked the command to end; like KeyboardInterrupt, nothing on the way takes it for a failure.

    Args:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(_words(number))
        self.exit_code = 128 + number
        """As shells count: 143 for SIGTERM."""


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """End the block soon after SIGINT (by KeyboardInterrupt), SIGTERM or SIGHUP (by `StoppedError`), then the process.

    A process that a signal has stopped does not get behind the block: what Python takes apart on its way out, torch
    and gigabytes of pixels, would cost seconds as well. What somebody ignores stays ignored, as SIGHUP under nohup.
    """
    if threading.current_thread() is not threading.main_thread() or os.name != "posix":
        yield
        return
    came: list[int] = []

    def stop(number: int, _: FrameType | None) -> None:
        came.append(number)
        raise KeyboardInterrupt if number == signal.SIGINT else StoppedError(number)

    usual = dict.fromkeys(_SIGNALS, signal.SIG_DFL) | {signal.SIGINT: signal.default_int_handler}
    taken = {number: handler for number, handler in usual.items() if signal.getsignal(number) is handler}
    ours, theirs = os.pipe()
    os.set_blocking(theirs, False)
    has_left = threading.Event()
    watcher = threading.Thread(target=_watch, args=(ours, has_left), daemon=True)
    watcher.start()
    before = signal.set_wakeup_fd(theirs)
    try:
        for number in taken:
            signal.signal(number, stop)
        yield
    finally:
        has_left.set()
        if came:
            _end(came[0])
        for number, handler in taken.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(before)
        os.close(theirs)
        watcher.join()
        os.close(ours)


def _watch(pipe: int, has_left: threading.Event) -> None:
    """Read the numbers of the signals that come; end the process where the first of ours has no effect."""
    while byte := os.read(pipe, 1):
        if byte[0] in (signal.SIGINT, *_SIGNALS) and not has_left.wait(_SECONDS_TO_UNWIND):
            os.write(2, f"vbdguard: {_words(byte[0])}\n".encode())
            _end(byte[0])


def _end(number: int) -> NoReturn:
    """End this process as it is; its workers end with it."""
    last = threading.Timer(_SECONDS_TO_TIDY, os._exit, (128 + number,))
    last.daemon = True
    last.start()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    atexit._run_exitfuncs()  # what removes temporary directories
    os._exit(128 + number)


def _words(number: int) -> str:
    return "interrupted" if number == signal.SIGINT else f"stopped by {signal.Signals(number).name}"
