"""Write a file so that it is either there in full or not there at all."""

from __future__ import annotations

import os
import secrets
from pathlib import Path


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
