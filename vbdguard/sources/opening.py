"""From what the user named to a source: told by content, not only by name."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vbdguard.config import FolderRule
from vbdguard.errors import NothingToScanError, ReadError, SourceError
from vbdguard.sources.arrow import ArrowShard, arrow_class_names
from vbdguard.sources.base import Shard, Source
from vbdguard.sources.commands import CommandShard, is_command
from vbdguard.sources.files import is_url, short_names
from vbdguard.sources.folder import IMAGE_SUFFIXES, METADATA, open_folder
from vbdguard.sources.http_file import asked
from vbdguard.sources.kinds import SHARD_SUFFIXES, Kind, kind_of
from vbdguard.sources.manifest import open_manifest
from vbdguard.sources.npz import NpzShard
from vbdguard.sources.parquet import ParquetShard, parquet_class_names
from vbdguard.sources.pointers import MissingShard, PointerShard, missing_outputs
from vbdguard.sources.remote import filesystem
from vbdguard.sources.secrets import shown_name, without_query, without_secrets
from vbdguard.sources.shards import ShardSource, expand
from vbdguard.sources.tar import TarShard
from vbdguard.wording import count_words

log = logging.getLogger(__name__)

_SPLIT = re.compile(r"(train|test|validation|valid|val|dev)(?=[-_.])")
_SCANNABLE = "tar shards, parquet, arrow or npz files, a CSV or JSON-lines manifest, or one folder per class"
_SHOWN = 5
_MAX_STATE = 16 << 20
"""Bytes of a state.json."""
_SIDECARS = (".md", ".json", ".txt", ".yaml", ".yml", ".toml", ".lock", ".dvc", ".idx", ".index", ".html", ".pdf")
"""What lies beside shards and is nobody's training data."""
_TRUTH = "truth.jsonl"
"""What vbdguard writes beside the shards of a drill; data of others may end like that."""


@dataclass(frozen=True, slots=True)
class Reading:
    """How a source is to be understood, where the user says so."""

    label_key: str | None = None
    folder_rule: FolderRule | None = None
    run_commands: bool = False


def open_source(
    source: Any,
    *,
    label_key: str | None = None,
    folder_rule: FolderRule | None = None,
    run_commands: bool = False,
) -> Source:
    """Return the source that a path, pattern, list or dataset stands for.

    Args:
        source: a tar (plain or compressed), parquet, arrow or npz file; a folder of one kind of them; a folder of
            images; a CSV or JSON-lines manifest; a brace pattern, glob or fsspec URL; several joined by `::`; a list
            of those; a map-style dataset; or a source, which comes back as it is.
        label_key: what holds the label: a tar member's suffix, a JSON key, a column, or an array of an npz file; None
            looks for the usual ones.
        folder_rule: whose rule gives a folder of images its labels; None asks where they differ.
        run_commands: whether `pipe:` names run as shell commands, with all that the user may do.

    Raises:
        SourceError: if it does not exist, may not be read, mixes kinds, or cannot be understood.
        NothingToScanError: if there is no labelled image in it.
    """
    reading = Reading(label_key, folder_rule, run_commands)
    try:
        return _open(source, reading)
    except PermissionError as error:
        if error.filename is None:
            raise
        what = f"{error.filename}: cannot be read: {error.strerror}"
        raise SourceError(f"{what}; grant access or move it away") from error
    except SourceError as error:
        if (words := without_secrets(str(error))) == str(error):
            raise
        raise type(error)(words) from None  # what caused it tells the whole URL too


def _open(source: Any, reading: Reading) -> Source:
    if isinstance(source, (str, os.PathLike)):
        return _open_paths([os.fspath(source)], reading)
    if isinstance(source, (list, tuple)) and all(isinstance(one, (str, os.PathLike)) for one in source):
        return _open_paths([os.fspath(one) for one in source], reading)
    if hasattr(source, "shards") and hasattr(source, "is_picklable"):
        opened: Source = source
        return opened
    if hasattr(source, "__getitem__") and hasattr(source, "__len__"):
        from vbdguard.sources.torch_dataset import TorchDatasetSource

        return TorchDatasetSource(source)
    raise SourceError(
        f"expected a path, a pattern, a list of them or a map-style dataset, got {type(source).__name__}; "
        "guard a stream with vbdguard.guard(), scan the shards behind it"
    )


def _open_paths(names: list[str], reading: Reading) -> Source:
    if not names:
        raise NothingToScanError(f"expected at least one path, got an empty list; name {_SCANNABLE}")
    if reading.run_commands and all(map(is_command, names)):
        commands = [CommandShard(name, f"command-{n:06d}", reading.label_key) for n, name in enumerate(names)]
        return ShardSource(tuple(names), commands)
    paths = [path for name in names for path in expand(name)]
    folders = [path for path in paths if not is_url(path) and Path(path).is_dir()]
    shown = tuple(map(shown_name, names))
    if len(paths) == 1:
        if folders:
            return _open_folder(paths[0], shown, reading)
        if (remote := _remote_folder(paths[0])) is not None:
            return _open_remote_folder(paths[0], remote, shown, reading)
    files = [file for path in paths for file in (_folder_shards(path) if path in folders else _listed(path))]
    return _open_files(files, shown, reading)


def _open_files(
    files: Sequence[str], names: tuple[str, ...], reading: Reading, missing: Sequence[MissingShard] = ()
) -> Source:
    """Return the source over files of one kind, with what could not be fetched of it."""
    kinds = {path: kind_of(path) for path in files}
    if others := [path for path, kind in kinds.items() if kind == "other"]:
        raise SourceError(
            f"{others[0]} is neither a tar nor a parquet file by its content, nor another kind; pass {_SCANNABLE}"
        )
    found = sorted(set(kinds.values()) - {"pointer"})
    if len(found) > 1:
        raise SourceError(f"{' and '.join(found)} files in one scan; scan them one by one")
    if found == ["manifest"]:
        if len(files) > 1:
            raise SourceError(f"{files[0]}: expected one manifest in a scan, got {len(files)}; scan them one by one")
        source = _manifest(files[0], reading)
        return ShardSource(names, source.shards, None, source.is_picklable)
    shards: list[Shard] = [
        _shard(path, name, kinds[path], reading.label_key)
        for path, name in zip(files, short_names(list(files)), strict=True)
    ]
    # What lives in this process's memory is not there in another one.
    is_picklable = not any(path.startswith("memory://") for path in files)
    class_names = _class_names(found, [path for path in files if kinds[path] != "pointer"], reading.label_key)
    return ShardSource(names, [*shards, *missing], class_names, is_picklable)


def _shard(path: str, name: str, kind: Kind, label_key: str | None) -> Shard:
    if kind == "pointer":
        return PointerShard(path, name)
    if kind == "parquet":
        return ParquetShard(path, name, label_key)
    if kind == "arrow":
        return ArrowShard(path, name, label_key)
    return NpzShard(path, name, label_key) if kind == "npz" else TarShard(path, name, label_key)


def _class_names(kinds: list[Kind], files: list[str], label_key: str | None) -> Mapping[int, str] | None:
    if kinds == ["parquet"]:
        return parquet_class_names(files, label_key)
    return arrow_class_names(files, label_key) if kinds == ["arrow"] else None


def _manifest(path: str, reading: Reading) -> ShardSource:
    try:
        return open_manifest(path, label_key=reading.label_key)
    except ReadError as error:
        raise SourceError(f"{path}: {error}") from error


def _open_folder(root: str, names: tuple[str, ...], reading: Reading) -> Source:
    shards = _shards_in(root)
    if shards:
        taken = _one_kind(root, shards)
        _refuse_more_below(root, taken)
        _tell_what_is_left(root, taken)
        return _open_files(taken, names, reading, missing_outputs(root))
    with os.scandir(root) as entries:
        folders = sorted(entry.path for entry in entries if Path(entry.path).is_dir())
    holders = [folder for folder in folders if _shards_in(folder)]
    if len(holders) == 1 and len(folders) == 1:  # the layout of a downloaded Hugging Face data set: data/*.parquet
        return _open_folder(holders[0], names, reading)
    if holders:
        raise SourceError(f"{root} holds shards in folders below it; pass one of them, such as {holders[0]}")
    if not folders and not _holds_images(Path(root)):
        missing = missing_outputs(root)
        if missing:
            return ShardSource(names, missing)
        raise NothingToScanError(f"{root} holds nothing to scan; expected {_SCANNABLE}")
    return _open_images(root, folders, names, reading)


def _open_images(root: str, folders: Sequence[str], names: tuple[str, ...], reading: Reading) -> Source:
    """Return the source over a folder of images, labelled by folders or by metadata as the rule wants it."""
    metadata = [str(Path(root, name)) for name in METADATA if Path(root, name).is_file()]
    if metadata and reading.folder_rule is None and len(folders) > 1:
        raise SourceError(
            f"{root}: Hugging Face takes labels from {metadata[0]}, torchvision from the folders; say with "
            "--folder-rule huggingface or --folder-rule torchvision what you train with"
        )
    if metadata and reading.folder_rule != "torchvision":
        return _open_files(metadata, names, reading)
    source = open_folder(root, rule=reading.folder_rule)
    return ShardSource(names, source.shards, source.class_names)


def _folder_shards(root: str) -> list[str]:
    """Return the shards of a folder that stands in a list."""
    shards = _shards_in(root)
    if not shards:
        raise SourceError(f"{root}: a list may name shards and folders of shards; scan a folder of images alone")
    return _one_kind(root, shards)


def _shards_in(root: str) -> dict[str, Kind]:
    """Return the shard files directly inside a folder, by name and by content."""
    with os.scandir(root) as entries:
        files = sorted(entry.path for entry in entries if not entry.name.startswith(".") and _is_file(entry))
    kinds = {path: kind_of(path) for path in files if not path.lower().endswith(IMAGE_SUFFIXES)}
    found = {path: kind for path, kind in kinds.items() if kind not in ("other", "manifest")}
    saved = _saved_files(root)
    if missing := sorted(saved - {Path(path).name for path in found}):
        raise SourceError(f"{root}: its state.json names {missing[0]!r:.80}, which is none of the shards in it")
    # Hugging Face leaves what it computed beside what it computed it from.
    return {
        path: kind
        for path, kind in found.items()
        if kind != "arrow" or not (name := Path(path).name).startswith("cache-") or name in saved
    }


def _saved_files(root: str) -> frozenset[str]:
    """Return the files that Hugging Face's `load_from_disk` would read of a folder; none where it was not saved so."""
    try:
        state = json.loads(Path(root, "state.json").read_bytes()[:_MAX_STATE])
        return frozenset(str(entry["filename"]) for entry in state["_data_files"])
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return frozenset()


def _is_file(entry: os.DirEntry[str]) -> bool:
    # A link that leads nowhere counts: a shard that is missing must not vanish from the scan.
    try:
        return entry.is_file() or (entry.is_symlink() and not entry.is_dir())
    except OSError:  # a link to itself
        return True


def _one_kind(root: str, shards: dict[str, Kind]) -> list[str]:
    """Check that a folder holds one kind of shards, of one split and nothing else; return their paths."""
    kinds = sorted(set(shards.values()) - {"pointer"})
    if len(kinds) > 1:
        raise SourceError(f"{root} holds {' and '.join(kinds)} files; pass a pattern such as {root}/*.{kinds[0]}")
    kind = kinds[0] if kinds else "tar"
    others = sorted(entry.name for entry in Path(root).iterdir() if _is_image(entry) or _holds_images(entry))
    if others:
        raise SourceError(
            f"{root} mixes {kind} shards and images ({others[0]}); pass a pattern such as {root}/*.{kind}, "
            "or move the images to a folder of their own"
        )
    splits = sorted({split[1] for path in shards if (split := _SPLIT.match(Path(path).name))})
    if len(splits) > 1:
        raise SourceError(
            f"{root} holds the splits {', '.join(splits)}; pass the one you train on: "
            f"{root}/{'train' if 'train' in splits else splits[0]}-*.{kind}"
        )
    return list(shards)


def _refuse_more_below(root: str, taken: Sequence[str]) -> None:
    """Refuse a folder whose folders hold shards as well: some trainers read them, and we would not."""
    for folder, folders, _ in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if folder != root and _shards_in(folder):
            raise SourceError(
                f"{root} holds shards, and {folder} does too; name what you train on, such as "
                f"{root}/*{Path(taken[0]).suffix}"
            )


def _tell_what_is_left(root: str, taken: Sequence[str]) -> None:
    """Log what of a folder of shards is not scanned; as a warning where it might be meant for training."""
    names = {Path(path).name for path in taken}
    left = sorted(name for name in os.listdir(root) if name not in names and not name.startswith("."))  # noqa: PTH208
    if not left:
        return
    shown = ", ".join(left[:_SHOWN]) + (f" and {len(left) - _SHOWN} more" if len(left) > _SHOWN else "")
    is_usual = all(name.lower().endswith(_SIDECARS) or "." not in name or name == _TRUTH for name in left)
    level = logging.INFO if is_usual else logging.WARNING
    log.log(level, "%s: took %s, left %s", root, count_words(len(taken), "file"), shown)


def _holds_images(folder: Path) -> bool:
    return folder.is_dir() and any(_is_image(entry) for entry in folder.iterdir())


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES


def _remote_folder(path: str) -> list[str] | None:
    """Return the URLs in a remote folder, None where the path is no such folder."""
    if not is_url(path) or without_query(path).lower().endswith(SHARD_SUFFIXES):
        return None
    try:
        remote, inner = filesystem(path)
        if not asked(path, lambda: remote.isdir(inner)):
            return None
        return [remote.unstrip_protocol(name) for name in asked(path, lambda: remote.ls(inner, detail=False))]
    except SourceError:
        raise
    except ReadError as error:
        raise SourceError(f"{path}: cannot open it: {error.detail}") from error
    except Exception as error:  # what the packages behind a URL raise is theirs
        raise SourceError(f"{path}: cannot open it: {error or type(error).__name__}") from error


def _open_remote_folder(root: str, entries: list[str], names: tuple[str, ...], reading: Reading) -> Source:
    if shards := _remote_shards(entries):
        return _open_files(shards, names, reading)
    source = open_folder(root, rule=reading.folder_rule)
    return ShardSource(names, source.shards, source.class_names, source.is_picklable)


def _remote_shards(entries: list[str]) -> list[str]:
    return sorted(name for name in entries if name.lower().endswith(SHARD_SUFFIXES))


def _listed(path: str) -> Iterable[str]:
    """Return the file, or the shards of a remote folder, that stands in a list."""
    entries = _remote_folder(path)
    if entries is None:
        return [path]
    if shards := _remote_shards(entries):
        return shards
    raise NothingToScanError(f"{path} holds no shards; a folder of images is scanned alone")
