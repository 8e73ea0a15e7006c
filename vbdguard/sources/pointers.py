"""Files that stand for others which have not been fetched: named as such, never scanned as data.

Git LFS and git-annex put a line of text in the place of the file; DVC puts a `.dvc` file beside the empty place.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vbdguard.errors import ReadError
from vbdguard.sources.base import RawSample, Unreadable
from vbdguard.sources.files import file_digest, head

LFS_MAGIC = b"version https://git-lfs.github.com/spec/"
ANNEX_MAGICS = (b"/annex/objects/", b"../.git/annex/objects/", b".git/annex/objects/")
POINTER_BYTES = len(LFS_MAGIC)
"""Of a file's beginning, that `pointer_error` needs."""
_MAX_DVC_FILE = 1 << 20
_DVC_OUT = re.compile(r"^(?:- |  )+path:\s*(?P<quote>['\"]?)(?P<path>.+?)(?P=quote)\s*$", re.MULTILINE)


def pointer_error(start: bytes, expected: str) -> ReadError | None:
    """Return what to say of a file that is a pointer by its first bytes, None where it is none.

    Args:
        start: the first `POINTER_BYTES` bytes or more.
        expected: what should stand there, such as "a tar file".
    """
    if start.startswith(LFS_MAGIC):
        return ReadError("git-lfs-pointer", f"expected {expected}, got a Git LFS pointer; run `git lfs pull`")
    if start.startswith(ANNEX_MAGICS):
        return ReadError("git-annex-pointer", f"expected {expected}, got a git-annex pointer; run `git annex get .`")
    return None


@dataclass(slots=True)
class PointerShard:
    """A file that is a pointer.

    Args:
        path: a local path or an fsspec URL.
        name: the shard's name in the report.
    """

    path: str
    name: str

    def digest(self) -> str:
        """Return the hex BLAKE3 of the pointer.

        Raises:
            ReadError: "io-error".
        """
        return file_digest(self.path)

    def read(self) -> Iterator[RawSample | Unreadable]:
        """Raise what it is.

        Raises:
            ReadError: "git-lfs-pointer" or "git-annex-pointer"; "changed" where it has become something else.
        """
        error = pointer_error(head(self.path), "data")
        raise error or ReadError("changed", f"{self.name} was a pointer and is none any more; scan again")


@dataclass(frozen=True, slots=True)
class MissingShard:
    """What a `.dvc` file stands for while it has not been fetched."""

    name: str

    def digest(self) -> None:
        """Return None: there are no bytes."""

    def read(self) -> Iterator[RawSample | Unreadable]:
        """Raise what is missing.

        Raises:
            ReadError: "dvc-pointer".
        """
        raise ReadError("dvc-pointer", f"expected {self.name}, found only its .dvc file; run `dvc pull`")


def missing_outputs(folder: str) -> tuple[MissingShard, ...]:
    """Return what the `.dvc` files in a folder stand for and what is not there, by path relative to the folder."""
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if entry.name.endswith(".dvc") and Path(entry.path).is_file())
    missing: list[MissingShard] = []
    for name in names:
        outputs = _outputs(Path(folder, name)) or [name.removesuffix(".dvc")]
        missing += [MissingShard(output) for output in outputs if not os.path.lexists(Path(folder, output))]
    return tuple(missing)


def _outputs(path: Path) -> list[str]:
    """Return the paths that a `.dvc` file names; it is YAML, of which these lines are enough."""
    with path.open("rb") as file:
        text = file.read(_MAX_DVC_FILE).decode("utf-8", "backslashreplace")
    return [match["path"] for match in _DVC_OUT.finditer(text)]
