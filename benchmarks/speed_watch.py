"""A command in a process of its own: what it printed, how long it took, how much memory it and its children held."""

from __future__ import annotations

import os
import re
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_SECONDS_BETWEEN_LOOKS = 0.05
"""One look at three processes takes 0.3 ms."""
_FIELD = re.compile(r"^(VmHWM|VmRSS|RssAnon|RssShmem):\s+(\d+) kB", re.MULTILINE)


class CommandFailedError(Exception):
    """The command ended with a status that it should not have."""


@dataclass(frozen=True, slots=True)
class Watched:
    """What a command came to."""

    stdout: str
    seconds: float
    """Wall clock, from before its start to its end."""
    peak_memory_mb: int | None
    """Largest sum of the resident sets of all its processes, pages that they share counted in each; Linux only."""
    peak_unmapped_mb: int | None
    """The same without pages of mapped files (libraries, stored pixels), which the system takes back when it must."""


def watch(command: Sequence[str], *, environ: Mapping[str, str] | None = None, fine: Sequence[int] = (0,)) -> Watched:
    """Run a command to its end.

    Args:
        command: program and arguments.
        environ: variables to set besides those of this process.
        fine: statuses that do not mean failure.

    Raises:
        CommandFailedError: if it ends with another one; the message holds the end of its stderr.
    """
    start = time.perf_counter()
    process = subprocess.Popen(
        command, env={**os.environ, **(environ or {})}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    look = _Look(process.pid)
    look.start()
    try:
        stdout, stderr = process.communicate()
        seconds = time.perf_counter() - start
    except BaseException:
        process.kill()
        process.wait()
        raise
    finally:
        look.stop()
    if process.returncode not in fine:
        raise CommandFailedError(f"{' '.join(command)} ended with {process.returncode}:\n{stderr[-3000:]}")
    return Watched(stdout, seconds, _megabytes(look.peak_kilobytes), _megabytes(look.peak_unmapped_kilobytes))


def _megabytes(kilobytes: int) -> int | None:
    return kilobytes // 1024 or None


class _Look(threading.Thread):
    """Looks at a process and its descendants again and again."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._pid = pid
        self._is_over = threading.Event()
        self.peak_kilobytes = 0
        self.peak_unmapped_kilobytes = 0

    def run(self) -> None:
        """Keep the largest sums, and the largest peak of any one process, which may fall between two looks."""
        while not self._is_over.wait(_SECONDS_BETWEEN_LOOKS):
            held = [_memory(pid) for pid in process_tree(self._pid)]
            largest = max((one.peak for one in held), default=0)
            self.peak_kilobytes = max(self.peak_kilobytes, largest, sum(one.resident for one in held))
            self.peak_unmapped_kilobytes = max(self.peak_unmapped_kilobytes, sum(one.unmapped for one in held))

    def stop(self) -> None:
        """End the thread."""
        self._is_over.set()
        self.join()


def process_tree(pid: int) -> list[int]:
    """Return a process and its descendants, as far as they are still there (Linux; elsewhere the process alone)."""
    tree = [pid]
    for parent in tree:  # grows meanwhile
        # Any thread may have started a process.
        with suppress(OSError):
            for thread in (_PROC / str(parent) / "task").iterdir():
                with suppress(OSError):
                    tree += map(int, (thread / "children").read_text().split())
    return tree


@dataclass(frozen=True, slots=True)
class _Memory:
    """Kilobytes of one process."""

    resident: int = 0
    peak: int = 0
    unmapped: int = 0


def _memory(pid: int) -> _Memory:
    """Return what a process holds; nothing where it has gone."""
    with suppress(OSError):
        fields = {name: int(size) for name, size in _FIELD.findall((_PROC / str(pid) / "status").read_text())}
        if fields:  # a process that has ended and was not yet waited for has none
            return _Memory(fields["VmRSS"], fields["VmHWM"], fields["RssAnon"] + fields["RssShmem"])
    return _Memory()
