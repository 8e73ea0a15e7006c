"""WebDataset tar shards: streamed, never extracted, read with webdataset's own grouping rule.

A member's key is its path up to the first dot of its base name, its field the lower-cased rest; adjacent
members with one key are a sample. Two images in one sample, or one field twice, are refused: readers do not
agree on which they take, and the other could hide a trigger. What else they do not agree on is told in entries of
its own (`vbdguard.sources.tar_notes`).
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import BinaryIO

from vbdguard.errors import ReadError
from vbdguard.sources.base import RawSample, Unreadable
from vbdguard.sources.compression import UnpackingReader, compression_of
from vbdguard.sources.faults import Faults
from vbdguard.sources.files import BLOCK, HashingReader, file_digest, file_size, open_binary
from vbdguard.sources.labels import MAX_LABEL_DATA, read_label
from vbdguard.sources.pointers import POINTER_BYTES, pointer_error
from vbdguard.sources.tar_members import MAX_MEMBER, OtherMember, TarFile, iter_members
from vbdguard.sources.tar_notes import IMAGE_FIELDS, TarNotes

MAX_FIELDS = 1000
"""Members of one key."""
_META = re.compile(r"__[^/]*__($|/)")
_KEY_AND_FIELD = re.compile(r"^((?:.*/|)[^.]+)[.]([^/]*)$")
"""webdataset's own (tariterators.py), down to what it makes of line breaks."""
_OTHER_MAGIC = (b"PAR1", b"ARROW1\0\0", b"\xff\xff\xff\xff", b"PK\x03\x04")
"""What parquet, arrow and npz begin with: a file may be one of those and a tar at once, and readers go by its name."""


@dataclass(slots=True)
class TarPiece:
    """Adjacent members that belong together, with what a scan sees in them."""

    key: str
    """What the members share; empty where readers pass over them."""
    members: tuple[TarFile | OtherMember, ...]
    entry: RawSample | Unreadable | None
    """None where the members are no sample: nobody's label or image, a link, a folder."""
    is_torn: bool = False
    """Whether the archive broke off in the midst of it, so that it is no sample and nobody's loss of its own."""


@dataclass(slots=True)
class TarShard:
    """One tar file, plain or compressed.

    Args:
        path: a local path or an fsspec URL.
        name: the shard's name in the report.
        label_key: a field (`cls`, `id`, `txt` for class names) or a key of the `.json` field; None takes
            `.cls`, else `label`, `cls` or `class` of `.json`.
    """

    path: str
    name: str
    label_key: str | None = None
    _digest: str | None = field(default=None, init=False, repr=False, compare=False)

    def digest(self) -> str:
        """Return the hex BLAKE3 of the file as it stands.

        Raises:
            ReadError: "io-error".
        """
        self._digest = file_digest(self.path)
        return self._digest

    def read(self) -> Iterator[RawSample | Unreadable]:
        """Yield the samples; the last entry tells if the archive broke off.

        Raises:
            ReadError: "io-error", "git-lfs-pointer", or "changed" where the bytes are not those of `digest()`.
        """
        return self.read_and_hash(self._refuse_change)

    def size(self) -> int | None:
        """Return the file's bytes, None where nobody tells."""
        return file_size(self.path)

    def read_and_hash(self, on_digest: Callable[[str], None]) -> Iterator[RawSample | Unreadable]:
        """Yield what `read` yields; at the end `on_digest` gets the hex BLAKE3 of the bytes that were read.

        Raises:
            ReadError: "io-error" or "git-lfs-pointer".
        """
        return (piece.entry for piece in self.pieces(on_digest) if piece.entry is not None)

    def opened(self) -> AbstractContextManager[BinaryIO]:
        """Return the file as it stands, compressed or not.

        Raises:
            ReadError: "io-error".
        """
        return open_binary(self.path)

    def pieces(self, on_digest: Callable[[str], None] | None = None) -> Iterator[TarPiece]:
        """Yield what `read` yields with the members behind it, and the members that are no sample; raises alike."""
        with self.opened() as file:
            raw = HashingReader(file)
            stream = uncompressed(raw)
            try:
                yield from self._told(_groups(stream, _wanted(self.label_key)))
            except ReadError as error:
                if error.reason == "io-error":
                    raise
                yield TarPiece("", (), Unreadable(self.name, error.reason, error.detail, is_shard=True))
                while raw.read(BLOCK):  # to the end, for the digest
                    pass
            (on_digest or self._refuse_change)(raw.hexdigest())

    def _told(self, groups: Iterator[_Group | TarFile | OtherMember]) -> Iterator[TarPiece]:
        """Yield the pieces, and behind each what else is to be said of it."""
        notes, faults = TarNotes(self.name), Faults()
        for group in groups:
            if isinstance(group, OtherMember):
                piece = TarPiece("", (group,), notes.of_other(group))
            elif isinstance(group, TarFile):
                piece = TarPiece("", (group,), notes.of_unused((group,)))
            else:
                piece = self._piece(group)
                if piece.entry is None and not piece.is_torn:
                    piece = replace(piece, entry=notes.of_unused(piece.members))
            yield piece
            if isinstance(piece.entry, Unreadable):
                faults.count()
            for note in notes.of_group(piece.key, piece.members) if piece.entry is not None and piece.key else ():
                yield TarPiece("", (), note)
                faults.count()

    def _refuse_change(self, digest: str) -> None:
        if self._digest not in (None, digest):
            raise ReadError("changed", f"{self.name} changed while it was read; scan again once it is at rest")

    def _piece(self, group: _Group) -> TarPiece:
        key = f"{self.name}/{group.key}"
        members = tuple(group.members)
        try:
            return TarPiece(group.key, members, group.sample(key, self.label_key))
        except ReadError as error:
            if group.is_cut:  # the shard's own entry speaks for a sample that was cut in two
                return TarPiece(group.key, members, None, is_torn=True)
            return TarPiece(group.key, members, Unreadable(key, error.reason, error.detail))


@dataclass(slots=True)
class _Group:
    """The adjacent members of one key."""

    key: str
    members: list[TarFile] = field(default_factory=list)
    fields: dict[str, TarFile] = field(default_factory=dict)
    duplicates: list[str] = field(default_factory=list)
    is_cut: bool = False
    """Whether the archive broke off behind it, so that more of its members may have stood there."""
    held: int = 0
    """Bytes of content."""

    def add(self, suffix: str, member: TarFile) -> None:
        if len(self.members) == MAX_FIELDS:
            raise ReadError("too-many-members", f"expected at most {MAX_FIELDS} members of one key; split it")
        self.held += len(member.data or b"")
        if self.held > MAX_MEMBER:  # one sample must not fill the memory by many members either
            member = replace(member, data=None)
        self.members.append(member)
        if suffix in self.fields:
            self.duplicates.append(member.name)
        else:
            self.fields[suffix] = member

    def sample(self, key: str, label_key: str | None) -> RawSample | None:
        """Return the sample, or None where the members hold neither an image nor a label."""
        if self.duplicates:
            raise ReadError("duplicate-member", f"expected each field once, got {', '.join(self.duplicates)} again")
        return read_sample(key, self.fields, self._content, label_key)

    def _content(self, suffix: str) -> bytes:
        member = self.fields[suffix]
        limit = MAX_MEMBER if suffix in IMAGE_FIELDS else MAX_LABEL_DATA
        if member.data is None or member.size > limit:
            raise ReadError("too-large", f"expected at most {limit} bytes, {member.name} has {member.size}")
        return member.data


def read_sample(
    key: str, fields: Collection[str], content: Callable[[str], bytes], label_key: str | None
) -> RawSample | None:
    """Return what a scan sees in the fields of one key, or None where they hold neither an image nor a label.

    Args:
        key: the sample's key, passed through.
        fields: lower-cased names of the members, such as "jpg" and "cls".
        content: gives the bytes of one of them.
        label_key: where the label stands (see `TarShard`).

    Raises:
        ReadError: "ambiguous-image", "no-image", "no-label", "ambiguous-label" or "bad-label", and whatever
            `content` raises.
    """
    images = [suffix for suffix in fields if suffix in IMAGE_FIELDS]
    if len(images) > 1:
        raise ReadError("ambiguous-image", f"expected one image, got {', '.join(images)}; keep the one you train on")
    label = read_label(fields, content, label_key)
    if not images:
        if label is None:
            return None
        raise ReadError("no-image", f"expected an image beside the label, got {_names(fields)}")
    image = content(images[0])
    if label is None:
        wanted = f"a label ({label_key})" if label_key else "a .cls or a .json with a label"
        raise ReadError("no-label", f"expected {wanted}, got {_names(fields)}; name its field with --label-key")
    return RawSample(key, image, label)


def _names(fields: Collection[str]) -> str:
    return ", ".join(f".{suffix}" for suffix in fields if not suffix.startswith("__"))


def image_field(fields: Iterable[str]) -> str:
    """Return the field that the image is read from, among the fields of a sample that has one."""
    return next(suffix for suffix in fields if suffix in IMAGE_FIELDS)


def _groups(stream: BinaryIO, is_wanted: Callable[[str], bool]) -> Iterator[_Group | TarFile | OtherMember]:
    """Yield the members of each key, and each member that readers pass over.

    What stood before the archive broke off comes too; then it raises why it did.
    """
    group: _Group | None = None
    try:
        for member in _translated(iter_members(stream, is_wanted)):
            key, suffix = ("", "") if isinstance(member, OtherMember) else split_name(member.name)
            if isinstance(member, OtherMember) or not key:
                yield member
                continue
            if group is None or key != group.key:
                if group is not None:
                    yield group
                group = _Group(key)
            group.add(suffix, member)
    except ReadError:
        if group is not None:
            group.is_cut = True
            yield group
        raise
    if group is not None:
        yield group


def _wanted(label_key: str | None) -> Callable[[str], bool]:
    """Return what says by a member's name whether its content can belong to a sample."""
    fields = IMAGE_FIELDS | {"cls", "json", (label_key or "cls").lower()}
    return lambda name: name.rpartition("/")[2].partition(".")[2].lower() in fields


def _translated(members: Iterator[TarFile | OtherMember]) -> Iterator[TarFile | OtherMember]:
    """Pass the members on; say what the disk has to say as `ReadError`."""
    try:
        yield from members
    except OSError as error:
        raise ReadError("io-error", f"cannot read it: {error}") from error


def split_name(name: str) -> tuple[str, str]:
    """Return key and field of a member's name, as webdataset splits it; both empty where it passes over it."""
    is_meta = name.startswith("__") and (_META.match(name) or ("/" not in name and name.endswith("__")))
    if is_meta:
        return "", ""
    folder, slash, base = name.rpartition("/")
    stem, dot, suffix = base.partition(".")
    if stem and dot and "\n" not in name:  # what nearly all names are, in a third of the time
        return f"{folder}{slash}{stem}", suffix.lower()
    match = _KEY_AND_FIELD.match(name)
    return (match[1], match[2].lower()) if match else ("", "")


def uncompressed(raw: HashingReader) -> BinaryIO:
    """Return the tar stream of a plain or compressed file.

    Raises:
        ReadError: "git-lfs-pointer" or "git-annex-pointer".
        SourceError: if the package for its compression is missing.
    """
    stream = io.BufferedReader(raw, BLOCK)
    start = stream.peek(POINTER_BYTES)
    if error := pointer_error(start, "a tar file"):
        raise error
    if start.startswith(_OTHER_MAGIC):
        raise ReadError(
            "ambiguous-kind", f"expected a tar file, got one that begins as another kind does: {start[:8]!r}"
        )
    compression = compression_of(start)
    return stream if compression is None else io.BufferedReader(UnpackingReader(stream, compression), BLOCK)
