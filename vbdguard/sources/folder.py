"""Folders of images whose labels are their folders' names, by torchvision's rule or by Hugging Face's.

    torchvision     `ImageFolder`: the folder of the first level is the class, whatever lies below it
    huggingface     `load_dataset("imagefolder")`: the folder that holds the file is the class; what is hidden is left

Where both rules give the same samples, nobody needs to say which one it is. Where they do not, the scan asks: labels
that are not those of the training would make its answer worthless. With the rule goes whether images are turned by
their EXIF orientation: Hugging Face turns them, torchvision does not. Where both give the same labels and nobody names
one, they are seen as they are stored.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from vbdguard.config import FolderRule
from vbdguard.errors import NothingToScanError, ReadError, SourceError
from vbdguard.sources.base import ExifRule, RawSample, Shard, Unreadable
from vbdguard.sources.files import is_url, open_binary
from vbdguard.sources.http_file import asked
from vbdguard.sources.pointers import missing_outputs
from vbdguard.sources.remote import filesystem
from vbdguard.sources.secrets import without_query
from vbdguard.sources.shards import ShardSource
from vbdguard.sources.tar_members import MAX_MEMBER

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""torchvision's own list: what has another suffix never reaches a trainer."""
_OTHERS = (
    ".apng .blp .bufr .bw .cur .dcx .dds .dib .emf .eps .fit .fits .flc .fli .ftc .ftu .gbr .gif .grib "
    ".icb .icns .ico .iim .im .j2c .j2k .jfif .jp2 .jpc .jpe .jpf .jpx .mpeg .mpg .msp .pbm .pcd .pcx "
    ".pnm .ps .psd .pxr .ras .rgb .rgba .sgi .tga .vda .vst .wmf .xbm .xpm"
)
MORE_SUFFIXES = tuple(_OTHERS.split())
"""Those that Hugging Face loads images by besides (`datasets`, 5.2); what the decoder refuses is named."""
METADATA = ("metadata.csv", "metadata.jsonl")
"""With one of these, Hugging Face takes labels from it and not from folders; it turns images by EXIF."""
FILES_PER_SHARD = 2000
_SPLITS = frozenset({"train", "training", "val", "valid", "validation", "test", "testing", "dev"})


@dataclass(frozen=True, slots=True)
class FolderShard:
    """A slice of the files of a folder of images."""

    root: str
    name: str
    files: tuple[tuple[str, str], ...]
    """Path relative to the root, and class name."""
    exif: ExifRule = "stored"

    def digest(self) -> None:
        """Return None: a slice is no file, its samples decide."""

    def read(self) -> Iterator[RawSample | Unreadable]:
        """Yield the slice's files; one that cannot be read comes as `Unreadable`."""
        for path, label in self.files:
            full = f"{self.root.rstrip('/')}/{path}" if is_url(self.root) else str(Path(self.root, path))
            try:
                yield RawSample(path, read_image(full), label)
            except ReadError as error:
                yield Unreadable(path, error.reason, error.detail)


def read_image(path: str) -> bytes:
    """Return the bytes of an image file or URL.

    Raises:
        ReadError: "not-a-file", "too-large" or "io-error".
    """
    try:
        if not is_url(path) and not stat.S_ISREG(Path(path).stat().st_mode):
            # Opening a named pipe would wait for ever.
            raise ReadError("not-a-file", "expected an image file, got something else by that name")
        with open_binary(path, buffering=0) as stream:
            data = stream.read(MAX_MEMBER + 1)
    except OSError as error:
        raise ReadError("io-error", f"cannot read it: {error.strerror or error}") from error
    except ValueError as error:
        raise ReadError("io-error", f"cannot read it, the name is no path: {error}") from error
    if len(data) > MAX_MEMBER:
        raise ReadError("too-large", f"expected at most {MAX_MEMBER} bytes, the file has more")
    return data


def open_folder(root: str, *, rule: FolderRule | None = None) -> ShardSource:
    """Return the source over a folder of images.

    Classes are numbered in the sorted order of their names, from 0, as both libraries do.

    Args:
        root: a local path or an fsspec URL.
        rule: whose rule gives the labels; None asks where they differ.

    Raises:
        NothingToScanError: if there is no class folder, or no image in them.
        SourceError: if the first level holds splits, not classes, or the two rules disagree and none was named.
    """
    paths = sorted(_remote_images(root) if is_url(root) else _local_images(root, rule), key=_torchvision_order)
    classes = sorted({PurePosixPath(path).parts[0] for path in paths if "/" in path} | set(_folders(root)))
    _refuse_splits(root, classes, paths)
    files, rule = _chosen(root, paths, rule)
    if not files:
        raise NothingToScanError(
            f"{root} holds no labelled image: labels are taken from class folders, as in {root}/cat/1.jpg; "
            "sort the images into one folder per class, or pass tar shards with .cls labels"
        )
    if rule == "huggingface" or {label for _, label in files} - set(classes):
        classes = sorted({label for _, label in files})
    return ShardSource(
        (root,),
        _shards(root, files, "turned" if rule == "huggingface" else "stored"),
        dict(enumerate(classes)),
        not root.startswith("memory://"),
    )


def _shards(root: str, files: Sequence[tuple[str, str]], exif: ExifRule) -> list[Shard]:
    slices = [tuple(files[start : start + FILES_PER_SHARD]) for start in range(0, len(files), FILES_PER_SHARD)]
    full = root if is_url(root) else str(Path(root).resolve())
    name = PurePosixPath(without_query(full)).name
    shards: list[Shard] = [FolderShard(full, f"{name}#{number:06d}", part, exif) for number, part in enumerate(slices)]
    return shards if is_url(root) else [*shards, *missing_outputs(root)]


def _chosen(
    root: str, paths: Sequence[str], rule: FolderRule | None
) -> tuple[list[tuple[str, str]], FolderRule | None]:
    """Return the files with their labels, and the rule that gave them; None where both rules do."""
    ours, theirs = torchvision_labels(paths), hugging_face_labels(paths)
    if rule == "torchvision":
        return ours, rule
    if rule == "huggingface" or not ours:
        return theirs, "huggingface"
    if not theirs:  # without labels, nobody trains a classifier by the other rule
        return ours, "torchvision"
    if dict(ours) == dict(theirs):
        return ours, None
    where = sorted(set(ours) ^ set(theirs))[0][0]
    by_ours, by_theirs = dict(ours).get(where), dict(theirs).get(where)
    raise SourceError(
        f"{root}: torchvision and Hugging Face do not give it the same labels: {where} is "
        f"{_shown(by_ours)} by torchvision's rule and {_shown(by_theirs)} by Hugging Face's; say with "
        "--folder-rule torchvision (the folder of the first level) or --folder-rule huggingface (the folder that holds "
        "the file) what you train with"
    )


def _shown(label: str | None) -> str:
    return "no sample" if label is None else repr(label)


def torchvision_labels(paths: Sequence[str]) -> list[tuple[str, str]]:
    """Return the samples of `torchvision.datasets.ImageFolder` among relative paths, each with its class."""
    return [(path, path.split("/", 1)[0]) for path in paths if "/" in path and path.lower().endswith(IMAGE_SUFFIXES)]


def hugging_face_labels(paths: Sequence[str]) -> list[tuple[str, str]]:
    """Return the samples of Hugging Face's `imagefolder` among relative paths, each with its class.

    Without labels, because all images are in one folder or not equally deep, there is no sample.
    """
    seen = [path for path in paths if not any(part.startswith((".", "__")) for part in path.split("/"))]
    files = [(path, PurePosixPath(path).parent.name) for path in seen]
    depths = {path.count("/") for path in seen}
    return files if len(depths) == 1 and len({label for _, label in files}) > 1 and depths != {0} else []


def _refuse_splits(root: str, classes: list[str], paths: Sequence[str]) -> None:
    if not classes or not {name.lower() for name in classes} <= _SPLITS:
        return
    if any(path.count("/") == 1 for path in paths):
        return
    raise SourceError(
        f"{root} holds the splits {', '.join(classes)}, not classes; pass the one you train on: {root}/{classes[0]}"
    )


def _folders(root: str) -> list[str]:
    """Return the folders of the first level: torchvision numbers empty ones too."""
    if is_url(root):
        return []
    with os.scandir(root) as entries:
        return sorted(entry.name for entry in entries if Path(entry.path).is_dir())


def _local_images(root: str, rule: FolderRule | None) -> Iterator[str]:
    """Yield the images below a root by relative path; links are followed.

    Raises:
        SourceError: if one leads in a circle, or a folder holds metadata that decide about labels by a possible rule.
    """
    trails: dict[str, frozenset[str]] = {}
    for folder, _, names in os.walk(root, followlinks=True, onerror=_unlistable):
        above = trails.get(str(Path(folder).parent), frozenset())
        real = os.path.realpath(folder)
        if real in above:
            raise SourceError(
                f"{folder}: expected a folder, got a link to one above it; torchvision goes in circles there and takes "
                "all samples again under this class: remove the link"
            )
        lists = [name for name in METADATA if name in names] if rule != "torchvision" else []
        if lists and folder != root:
            raise SourceError(
                f"{Path(folder, lists[0])}: Hugging Face takes labels from it, torchvision from the folders; pass "
                "--folder-rule torchvision if you train with that, else keep one such file, in the topmost folder"
            )
        trails[str(Path(folder))] = above | {real}
        below = Path(folder).relative_to(root)
        yield from (str(PurePosixPath(below, name)) for name in names if _is_image(name))


def _remote_images(root: str) -> Iterator[str]:
    """Yield the images below a URL.

    Raises:
        SourceError: if it cannot be listed.
    """
    try:
        remote, inner = filesystem(root)
        found = asked(root, lambda: remote.find(inner))
    except SourceError:
        raise
    except ReadError as error:
        raise SourceError(f"{root}: cannot list it: {error.detail}") from error
    except Exception as error:  # what the packages behind a URL raise is theirs
        raise SourceError(f"{root}: cannot list it: {error or type(error).__name__}") from error
    above = inner.rstrip("/") + "/"
    yield from (path.removeprefix(above) for path in found if _is_image(path) and path.startswith(above))


def _is_image(name: str) -> bool:
    return name.lower().endswith((*IMAGE_SUFFIXES, *MORE_SUFFIXES))


def _torchvision_order(path: str) -> tuple[str, str, str]:
    folder, _, name = path.rpartition("/")
    return path.split("/", 1)[0], folder, name


def _unlistable(error: OSError) -> None:
    # os.walk would pass over such a folder in silence.
    raise SourceError(f"{error.filename}: cannot list the folder: {error.strerror}; grant access or move it away")
