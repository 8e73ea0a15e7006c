"""Shards that are the output of a shell command, as `pipe:` URLs of webdataset name them.

Whoever can write such a name can do whatever the user can. They are opened only where the user says so.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO, cast

from blake3 import blake3

from vbdguard.errors import ReadError
from vbdguard.sources.files import BLOCK
from vbdguard.sources.tar import TarShard

PREFIX = "pipe:"


def is_command(path: str) -> bool:
    """Return whether a name stands for a command."""
    return path.lstrip().startswith(PREFIX)


@dataclass(slots=True)
class CommandShard(TarShard):
    """The tar stream that a command writes; `path` is the command behind `pipe:`."""

    def digest(self) -> str:
        """Return the hex BLAKE3 of the command's output.

        Raises:
            ReadError: "command-failed".
        """
        hasher = blake3()
        with self.opened() as stream:
            while block := stream.read(BLOCK):
                hasher.update(block)
        self._digest = hasher.hexdigest()
        return self._digest

    def size(self) -> None:
        """Return None: nobody knows before it has run."""

    @contextmanager
    def opened(self) -> Iterator[BinaryIO]:
        """Yield the command's output.

        Raises:
            ReadError: "command-failed" if it ends with another status than 0.
        """
        command = self.path.lstrip().removeprefix(PREFIX)
        with subprocess.Popen(command, shell=True, stdout=subprocess.PIPE) as process:  # noqa: S602  # what it is for
            try:
                yield cast(BinaryIO, process.stdout)
                cast(BinaryIO, process.stdout).read(1)
            except BaseException:
                process.kill()
                raise
        if process.returncode:
            raise ReadError("command-failed", f"expected the command to end with 0, got {process.returncode}")
