"""From what the user named to a source: told by content, not only by name."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from vbdguard.errors import NothingToScanError, ReadError, SourceError
from vbdguard.sources.base import Source
from vbdguard.sources.compression import compression_of
from vbdguard.sources.files import head, is_url, local_path, short_names
from vbdguard.sources.folder import IMAGE_SUFFIXES, open_folder
from vbdguard.sources.parquet import PARQUET_MAGIC, ParquetShard, parquet_class_names
from vbdguard.sources.pointers import pointer_error
from vbdguard.sources.shards import ShardSource, expand
from vbdguard.sources.tar import TarShard
from vbdguard.sources.tar_members import BLOCK, looks_like_tar

Kind = Literal["tar", "parquet", "other"]

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")
PARQUET_SUFFIXES = (".parquet",)
_SPLIT = re.compile(r"(train|test|validation|valid|val|dev)(?=[-_.])")
_SCANNABLE = "tar shards, parquet files, or one folder per class"


def open_source(source: Any, *, label_key: str | None = None) -> Source:
    """Return the source that a path, pattern, list or dataset stands for.

    Args:
        source: a tar, tar.gz or parquet file; a folder of them; an ImageFolder root; a brace pattern, glob or
            fsspec URL; several joined by `::`; a list of those; a map-style dataset; or a source, which comes
            back as it is.
        label_key: what holds the label: a tar member's suffix, a JSON key or a parquet column; None looks for the
            usual ones.

    Raises:
        SourceError: if it does not exist, mixes kinds, or cannot be understood.
        NothingToScanError: if there is no labelled image in it.
    """
    if isinstance(source, (str, os.PathLike)):
        return _open_paths([os.fspath(source)], label_key)
    if isinstance(source, (list, tuple)) and all(isinstance(one, (str, os.PathLike)) for one in source):
        return _open_paths([os.fspath(one) for one in source], label_key)
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


def _open_paths(names: list[str], label_key: str | None) -> Source:
    if not names:
        raise NothingToScanError(f"expected at least one path, got an empty list; name {_SCANNABLE}")
    paths = [path for name in names for path in expand(name)]
    folders = [path for path in paths if not is_url(path) and Path(path).is_dir()]
    if len(paths) == 1 and folders:
        return _open_folder(paths[0], tuple(names), label_key)
    files = [file for path in paths for file in (_folder_shards(path) if path in folders else _listed(path))]
    return _open_files(files, tuple(names), label_key)


def _open_files(files: list[str], names: tuple[str, ...], label_key: str | None) -> ShardSource:
    kinds = {path: _kind(path) for path in files}
    if others := [path for path, kind in kinds.items() if kind == "other"]:
        raise SourceError(f"{others[0]} is neither a tar nor a parquet file by its content; pass {_SCANNABLE}")
    if len(set(kinds.values())) > 1:
        raise SourceError(f"{' and '.join(sorted(set(kinds.values())))} files in one scan; scan them one by one")
    named = list(zip(files, short_names(files), strict=True))
    # What lives in this process's memory is not there in another one.
    is_picklable = not any(path.startswith("memory://") for path in files)
    if kinds[files[0]] == "tar":
        tars = [TarShard(path, name, label_key) for path, name in named]
        return ShardSource(names, tars, None, is_picklable)
    parquets = [ParquetShard(path, name, label_key) for path, name in named]
    return ShardSource(names, parquets, parquet_class_names(files, label_key), is_picklable)


def _open_folder(root: str, names: tuple[str, ...], label_key: str | None) -> Source:
    shards = _shards_in(root)
    if shards:
        return _open_files(_one_kind(root, shards), names, label_key)
    with os.scandir(root) as entries:
        folders = sorted(entry.path for entry in entries if entry.is_dir())
    holders = [folder for folder in folders if _shards_in(folder)]
    if len(holders) == 1 and len(folders) == 1:  # the layout of a downloaded Hugging Face data set: data/*.parquet
        return _open_folder(holders[0], names, label_key)
    if holders:
        raise SourceError(f"{root} holds shards in folders below it; pass one of them, such as {holders[0]}")
    if not folders and not _holds_images(Path(root)):
        raise NothingToScanError(f"{root} holds nothing to scan; expected {_SCANNABLE}")
    source = open_folder(root)
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
    kinds = {path: _kind(path) for path in files if not path.lower().endswith(IMAGE_SUFFIXES)}
    return {path: kind for path, kind in kinds.items() if kind != "other"}


def _is_file(entry: os.DirEntry[str]) -> bool:
    # A link that leads nowhere counts: a shard that is missing must not vanish from the scan.
    return entry.is_file() or (entry.is_symlink() and not entry.is_dir())


def _one_kind(root: str, shards: dict[str, Kind]) -> list[str]:
    """Check that a folder holds one kind of shards, of one split and nothing else; return their paths."""
    kinds = sorted(set(shards.values()))
    if len(kinds) > 1:
        raise SourceError(f"{root} holds {' and '.join(kinds)} files; pass a pattern such as {root}/*.{kinds[0]}")
    others = sorted(entry.name for entry in Path(root).iterdir() if _is_image(entry) or _holds_images(entry))
    if others:
        raise SourceError(
            f"{root} mixes {kinds[0]} shards and images ({others[0]}); pass a pattern such as {root}/*.{kinds[0]}, "
            "or move the images to a folder of their own"
        )
    splits = sorted({split[1] for path in shards if (split := _SPLIT.match(Path(path).name))})
    if len(splits) > 1:
        raise SourceError(
            f"{root} holds the splits {', '.join(splits)}; pass the one you train on: "
            f"{root}/{'train' if 'train' in splits else splits[0]}-*.{kinds[0]}"
        )
    return list(shards)


def _holds_images(folder: Path) -> bool:
    return folder.is_dir() and any(_is_image(entry) for entry in folder.iterdir())


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES


def _listed(path: str) -> Iterable[str]:
    """Return the file, or the shards of a remote folder."""
    if not is_url(path) or path.lower().endswith((*TAR_SUFFIXES, *PARQUET_SUFFIXES)):
        return [path]
    import fsspec  # type: ignore[import-untyped]  # ships no annotations

    try:
        filesystem, inner = fsspec.core.url_to_fs(path)
        if not filesystem.isdir(inner):
            return [path]
        names = [filesystem.unstrip_protocol(name) for name in filesystem.ls(inner, detail=False)]
    except (ImportError, ValueError, OSError) as error:
        raise SourceError(f"{path}: cannot open it: {error}") from error
    shards = sorted(name for name in names if name.lower().endswith((*TAR_SUFFIXES, *PARQUET_SUFFIXES)))
    if not shards:
        raise NothingToScanError(f"{path} holds neither tar nor parquet files; folders of images are read locally only")
    return shards


def _kind(path: str) -> Kind:
    """Tell a file by its content; where that says nothing, by its name, so that a broken shard is still a shard."""
    name = local_path(path).lower()
    by_name: Kind = "tar" if name.endswith(TAR_SUFFIXES) else "parquet" if name.endswith(PARQUET_SUFFIXES) else "other"
    if is_url(path) and by_name != "other":
        return by_name  # one request for each of a thousand shards would take minutes
    try:
        if not is_url(path) and Path(path).exists() and not Path(path).is_file():
            return "other"  # a named pipe would be waited for
        start = head(path, BLOCK)
    except (ReadError, OSError):
        # Reading it fails again in the scan, which then names it as unreadable.
        return by_name
    if start.startswith(PARQUET_MAGIC):
        return "parquet"
    if looks_like_tar(start) or _holds_tar(start):
        return "tar"
    if pointer_error(start, name) and by_name == "other":
        return "tar"  # whatever it stands for, it is named as a pointer and not passed over
    return by_name


def _holds_tar(start: bytes) -> bool:
    """Return whether a compressed file begins with a tar header, as far as its own beginning shows."""
    compression = compression_of(start)
    if compression is None:
        return False
    try:
        block = compression.unpacker().decompress(start, BLOCK)
    except SourceError:  # without the package nobody can tell; reading it says which one is missing
        return True
    except Exception:  # each library has an error of its own
        return False
    return block[257:262] == b"ustar"
