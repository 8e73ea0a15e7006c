"""Sources that are a list of shards, and the patterns that name them."""

from __future__ import annotations

import glob
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vbdguard.errors import NothingToScanError, ReadError, SourceError
from vbdguard.sources.base import Shard
from vbdguard.sources.braces import expand_braces
from vbdguard.sources.files import is_url, local_path
from vbdguard.sources.http_file import asked
from vbdguard.sources.remote import check_url, filesystem


@dataclass(frozen=True, slots=True)
class ShardSource:
    """A source whose shards are known."""

    names: tuple[str, ...]
    shards: Sequence[Shard]
    class_names: Mapping[int, str] | None = None
    is_picklable: bool = True


def expand(pattern: str) -> list[str]:
    """Return the paths and URLs that a pattern stands for, each checked to be there.

    Args:
        pattern: a path or URL; `{000..009}` and `{a,b}` expand, `*`, `?` and `[...]` match, `::` joins several.

    Raises:
        SourceError: if a named path does not exist or the pattern is a command.
        NothingToScanError: if a glob matches nothing.
    """
    if pattern.startswith("pipe:") or "::pipe:" in pattern:
        raise SourceError(
            f"{pattern}: commands are not run; download the shards first, or name them by path or URL (s3://, "
            "https://); --run-commands runs it with all that you may do, for names that you wrote yourself"
        )
    if not is_url(pattern) and os.path.lexists(pattern):
        return [pattern]
    found: list[str] = []
    for part in pattern.split("::"):
        for path in expand_braces(part):
            found += _matches(local_path(path))
    return found


def _matches(path: str) -> list[str]:
    if is_url(path):
        check_url(path)
        return _remote_matches(path) if "*" in path else [path]  # a "?" begins the query of a URL
    is_pattern = glob.has_magic(path)
    if os.path.lexists(path):
        return [path]
    if not is_pattern:
        raise SourceError(f"{path} does not exist; check the path{_advice(path)}")
    if found := sorted(glob.glob(path, recursive=True)):  # noqa: PTH207  # Path.glob takes no absolute pattern
        return found
    raise NothingToScanError(f"{path} matches no file; check the pattern")


def _advice(path: str) -> str:
    folder = Path(path).parent
    if not folder.is_dir():
        return f" (there is no folder {folder})"
    names = sorted(entry.name for entry in folder.iterdir())[:3]
    return f" ({folder} holds {', '.join(names)}{', ...' if len(names) == 3 else ''})" if names else ""


def _remote_matches(path: str) -> list[str]:
    try:
        remote, inner = filesystem(path)
        found = sorted(remote.unstrip_protocol(name) for name in asked(path, lambda: remote.glob(inner)))
    except SourceError:
        raise
    except ReadError as error:
        raise SourceError(f"{path}: cannot list it: {error.detail}") from error
    except Exception as error:  # what the packages behind a URL raise is theirs
        raise SourceError(f"{path}: cannot list it: {error or type(error).__name__}") from error
    if not found:
        raise NothingToScanError(f"{path} matches no file; check the pattern")
    return found
