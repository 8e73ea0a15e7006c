"""Settings of a project: `[tool.vbdguard]` in pyproject.toml, or vbdguard.toml.

What is typed wins over what a file says, and a file over the defaults. Of the files, the one in the nearest folder
counts, from the working directory up to the top of its repository; outside a repository only the working directory
is looked into, since whoever may write above it must not be able to open the gate. Within a folder vbdguard.toml
and [tool.vbdguard] exclude each other. Paths in a file start from its folder. Data are never asked for settings, and
`vbdguard.scan` in Python reads no file.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from vbdguard.config import FolderRule, Preset
from vbdguard.engines.base import EngineName
from vbdguard.errors import ConfigError
from vbdguard.gate import FailOn

OWN_FILE, SHARED_FILE = "vbdguard.toml", "pyproject.toml"


@dataclass(frozen=True, slots=True)
class _Kind:
    """What a setting may be."""

    types: tuple[type, ...]
    words: str
    choices: tuple[str, ...] = ()
    is_path: bool = False


_TEXT = _Kind((str,), "a string")
_NUMBER = _Kind((int,), "a whole number")
_SWITCH = _Kind((bool,), "true or false")
_PATH = _Kind((str,), "a path", is_path=True)

SETTINGS: dict[str, _Kind] = {
    "preset": _Kind((str,), "a string", choices=get_args(Preset)),
    "seed": _NUMBER,
    "device": _TEXT,
    "image-size": _Kind((int, str), 'pixels such as 32 or "48x64"'),
    "label-key": _TEXT,
    "folder-rule": _Kind((str,), "a string", choices=get_args(FolderRule)),
    "engine": _Kind((str,), "a string", choices=get_args(EngineName)),
    "jobs": _NUMBER,
    "shard-timeout": _Kind((int, float), "a number of seconds"),
    "worker-memory": _NUMBER,
    "cache-dir": _PATH,
    "fail-on": _Kind((str,), "a string", choices=get_args(FailOn)),
    "baseline": _PATH,
    "exit-zero": _SWITCH,
    "allow-unreadable": _Kind((int, float, str), 'a percentage such as 1 or "0.5%"'),
    "receipt": _PATH,
}
"""Every setting, by the name of its option."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What a file sets."""

    path: Path | None
    """The file; None where there is none."""
    values: Mapping[str, Any]
    """Checked values by the name of the option, paths as they are named from the working directory."""


def find_settings(start: Path | None = None) -> Settings:
    """Return the settings that hold in a folder.

    Args:
        start: the folder; None takes the working directory.

    Raises:
        ConfigError: if a file is no TOML, has an unknown setting or a value of another kind, or two files compete.
    """
    for folder in _folders(Path.cwd() if start is None else start):
        own, shared = folder / OWN_FILE, folder / SHARED_FILE
        in_shared = _section(shared)
        if own.is_file() and in_shared is not None:
            raise ConfigError(f"{own} and [tool.vbdguard] in {shared} both hold settings; keep one of them")
        if own.is_file():
            return read_settings(own)
        if in_shared is not None:
            return read_settings(shared)
    return Settings(None, {})


def read_settings(path: Path) -> Settings:
    """Return the settings in a file: the `[tool.vbdguard]` of a pyproject.toml, the whole of another.

    Raises:
        ConfigError: as `find_settings`, or if the file cannot be read.
    """
    table = _section(path) if path.name == SHARED_FILE else _parsed(path)
    if table is None:
        raise ConfigError(f"{path}: expected a table [tool.vbdguard], there is none")
    return Settings(path, {name: _checked(path, name, value) for name, value in table.items()})


def _folders(start: Path) -> Iterator[Path]:
    """Yield the folders to look into, the nearest first."""
    upwards = [start, *start.parents] if start.is_absolute() else [start.absolute(), *start.absolute().parents]
    top = next((number for number, folder in enumerate(upwards) if (folder / ".git").exists()), 0)
    yield from upwards[: top + 1]


def _section(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    tool = _parsed(path).get("tool", {})
    section = tool.get("vbdguard") if isinstance(tool, dict) else None
    if section is not None and not isinstance(section, dict):
        raise ConfigError(f"{path}: expected tool.vbdguard to be a table, got {section!r}")
    return section


def _parsed(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: expected TOML: {error}") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error


def _checked(path: Path, name: str, value: Any) -> Any:
    kind = SETTINGS.get(name)
    if kind is None:
        near = difflib.get_close_matches(name.replace("_", "-"), SETTINGS, n=1)
        advice = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(SETTINGS)}"
        raise ConfigError(f"{path}: unknown setting {name!r}; {advice}")
    # `type() in` and not isinstance: true must not pass for the number 1
    if type(value) not in kind.types:
        raise ConfigError(f"{path}: {name}: expected {kind.words}, got {value!r}")
    if kind.choices and value not in kind.choices:
        raise ConfigError(f"{path}: {name}: expected one of {', '.join(kind.choices)}, got {value!r}")
    return _from_here(path.parent, value) if kind.is_path else value


def _from_here(folder: Path, value: str) -> str:
    full = os.path.normpath(folder / Path(value).expanduser())
    here = Path.cwd()
    return str(Path(full).relative_to(here)) if Path(full).is_relative_to(here) else full
