"""Write a file so that it is either there in full or not there at all."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

PARTIAL_PATTERN = ".????????????????.partial"
"""What files that `replacing` has in work are called; what a killed process left behind may be removed."""
ASIDE_PATTERN = ".*.????????????????.tmp"
"""What files that `write_atomically` has in work are called; the star is the name of the file to be. Likewise."""


def write_atomically(path: Path, text: str) -> None:
    """Write `text` as UTF-8 beside `path`, flush it to the disk, then put it in the place of `path`.

    An interruption at any moment leaves the old file or the new one. `path` keeps being a symbolic link where
    it is one; its target is replaced. New files get the usual permissions of the process.

    Raises:
        OSError: if the directory cannot be written to; nothing is left behind.
    """
    target = path.resolve()
    aside = target.with_name(f".{target.name}.{secrets.token_hex(8)}.tmp")
    try:
        with aside.open("x", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(target)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def replacing(path: Path, *, sync: bool = True) -> Iterator[BinaryIO]:
    """Yield a new file beside `path` that takes the place of `path` when the block ends well, and vanishes otherwise.

    Its name follows from that of `path`: whoever starts again after a kill writes over what was left.

    Args:
        path: the file to be; its folder exists.
        sync: whether to flush the content to the disk before it gets its name.

    Raises:
        OSError: if it cannot be written.
    """
    aside = partial_name(path)
    try:
        with aside.open("wb") as file:
            yield file
            file.flush()
            if sync:
                os.fsync(file.fileno())
        aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def partial_name(path: Path) -> Path:
    """Return where `path` stands while it is in work: hidden, and short whatever the length of its name."""
    return path.with_name(f".{hashlib.blake2b(os.fsencode(path.name), digest_size=8).hexdigest()}.partial")
