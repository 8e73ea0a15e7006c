"""Cutting tar shards: the blocks of what stays pass through untouched, holes are left where a sample goes.

Extra fields, order, owners and times of the members that stay are those of the source. Links and devices hold no
sample and could lead whoever unpacks the shard out of his folder: they are left out, as are names that do.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from vbdguard.atomic import replacing
from vbdguard.errors import ReadError
from vbdguard.sources.base import Unreadable
from vbdguard.sources.compression import Compression, compression_of
from vbdguard.sources.cutting import Fate, Places, Rule, Ruling, Written, copy_file, is_safe_name
from vbdguard.sources.files import BLOCK, HashingReader, head, open_binary
from vbdguard.sources.labels import rewritten_label
from vbdguard.sources.tar import TarPiece, TarShard, split_name, uncompressed
from vbdguard.sources.tar_members import BLOCK as TAR_BLOCK
from vbdguard.sources.tar_members import OtherMember, Span, TarFile

_END = bytes(2 * TAR_BLOCK)


@dataclass(frozen=True, slots=True)
class _Cut:
    """A stretch of the stream that does not stay as it is."""

    span: Span
    fate: Fate | None
    """`FLAGGED` and `SKIPPED` go there, `RELABELLED` gets `content`, None goes nowhere."""
    content: bytes = b""


@dataclass(frozen=True, slots=True)
class TarPlan:
    """A shard and where to cut it."""

    shard: TarShard
    digest: str
    """Hex BLAKE3 of the file that was planned on."""
    rulings: Sequence[Ruling]
    others: Sequence[Unreadable]
    cuts: Sequence[_Cut]
    """In the order of the stream, never overlapping."""
    end: int | None
    """Where the readable part of a broken archive ends; None for a whole one."""

    def write(self, places: Places, *, link: bool) -> tuple[Written, ...]:
        """Write the shard's parts under its own name; see `CuttingPlan`."""
        roots = {Fate.KEPT: places.kept}
        roots |= {fate: root for fate, root in self._quarantine(places) if any(cut.fate is fate for cut in self.cuts)}
        paths = {fate: root / self.shard.name for fate, root in roots.items()}
        for path in paths.values():
            path.parent.mkdir(parents=True, exist_ok=True)
        if not self.cuts and self.end is None:
            copy_file(self.shard.path, paths[Fate.KEPT], link=link)
        else:
            self._cut(paths)
        return tuple(
            Written(fate, TarShard(str(path), self.shard.name, self.shard.label_key), (path,))
            for fate, path in paths.items()
        )

    @staticmethod
    def _quarantine(places: Places) -> tuple[tuple[Fate, Path], ...]:
        return (Fate.FLAGGED, places.flagged), (Fate.SKIPPED, places.skipped)

    def _cut(self, paths: dict[Fate, Path]) -> None:
        compression = compression_of(head(self.shard.path))
        with open_binary(self.shard.path) as file, ExitStack() as stack:
            raw = HashingReader(file)
            stream = uncompressed(raw)  # held until the end: it closes `raw` when it goes
            outputs = {fate: stack.enter_context(_archive(path, compression)) for fate, path in paths.items()}
            self._distribute(stream, outputs)
            while raw.read(BLOCK):  # to the end, for the digest
                pass
            if raw.hexdigest() != self.digest:
                raise ReadError("changed", f"{self.shard.name} changed while it was copied; run it again at rest")

    def _distribute(self, stream: BinaryIO, outputs: dict[Fate, BinaryIO]) -> None:
        kept = outputs[Fate.KEPT]
        position = 0
        for cut in self.cuts:
            _pass(stream, kept, cut.span.start - position)
            size = cut.span.end - cut.span.start
            if cut.fate is Fate.RELABELLED:
                headers = _exactly(stream, cut.span.content - cut.span.start)
                _pass(stream, None, cut.span.end - cut.span.content)
                kept.write(_member(headers, cut.content))
            else:
                _pass(stream, None if cut.fate is None else outputs[cut.fate], size)
            position = cut.span.end
        if self.end is None:
            while block := stream.read(BLOCK):
                kept.write(block)
        else:
            _pass(stream, kept, self.end - position)
            kept.write(_END)
        for fate, output in outputs.items():
            if fate is not Fate.KEPT:
                output.write(_END)


def plan_tar(shard: TarShard, rule: Rule) -> TarPlan:
    """Return where to cut a shard.

    Raises:
        ReadError: if the shard as a whole cannot be read.
    """
    digest = shard.digest()
    planner = _Planner(shard.label_key)
    for piece in shard.pieces():
        planner.take(piece, rule)
    cuts = sorted(planner.cuts, key=lambda cut: cut.span.start)
    return TarPlan(shard, digest, planner.rulings, planner.others, cuts, planner.end if planner.is_broken else None)


class _Planner:
    """Takes the pieces of a shard in their order and collects the cuts."""

    def __init__(self, label_key: str | None) -> None:
        self._label_key = label_key
        self._last_keys: dict[Fate, str] = {}
        self.rulings: list[Ruling] = []
        self.others: list[Unreadable] = []
        self.cuts: list[_Cut] = []
        self.end = 0
        self.is_broken = False

    def take(self, piece: TarPiece, rule: Rule) -> None:
        """Plan one piece."""
        self.end = max([self.end, *(member.span.end for member in piece.members)])
        self.is_broken |= isinstance(piece.entry, Unreadable) and piece.entry.is_shard
        if piece.entry is None:
            self._take_other(piece)
            return
        ruling = rule(piece.entry)
        place = Fate.KEPT if ruling.fate.stays else ruling.fate
        if _is_note(piece):
            ruling = ruling.refused(ruling.reason, ruling.detail)
        elif hazard := self._hazard(piece, place):
            ruling = ruling.refused(*hazard)
        elif piece.members:
            self._last_keys[place] = piece.key
        self.rulings.append(ruling)
        self._cut(piece, ruling)

    def _take_other(self, piece: TarPiece) -> None:
        hazard = self._hazard(piece, Fate.KEPT)
        if hazard is None and not piece.is_torn:
            if piece.key:
                self._last_keys[Fate.KEPT] = piece.key
            return
        self.cuts += [_Cut(member.span, None) for member in piece.members]
        if hazard is not None:
            self.others.append(Unreadable(piece.members[0].name, *hazard))

    def _hazard(self, piece: TarPiece, place: Fate) -> tuple[str, str] | None:
        """Return reason and detail why a piece must not be written to a place, None where it may."""
        for member in piece.members:
            if not is_safe_name(member.name):
                detail = f"expected a name below the folder it is unpacked in, got {member.name!r:.200}; pack it anew"
                return "unsafe-name", detail
        if piece.key and self._last_keys.get(place) == piece.key:
            # Without what stood between them, two groups of one key would become one.
            return (
                "repeated-key",
                f"expected one sample of the key {piece.key!r:.200}, the shard has several; rename them",
            )
        return None

    def _cut(self, piece: TarPiece, ruling: Ruling) -> None:
        if ruling.fate is Fate.KEPT:
            return
        if ruling.fate is Fate.RELABELLED:
            self.cuts += self._new_labels(piece, ruling.new_label)
            return
        self.cuts += [_Cut(member.span, None if ruling.is_refused else ruling.fate) for member in piece.members]

    def _new_labels(self, piece: TarPiece, label: int | str | None) -> list[_Cut]:
        fields = {split_name(member.name)[1]: cast(TarFile, member) for member in piece.members}
        new = rewritten_label(fields, lambda name: fields[name].data or b"", self._label_key, cast("int | str", label))
        return [_Cut(fields[name].span, Fate.RELABELLED, content) for name, content in new.items()]


def _is_note(piece: TarPiece) -> bool:
    """Return whether an entry is no sample but speaks of one, or is a link or device, which must not be written."""
    if not piece.members:
        return isinstance(piece.entry, Unreadable) and not piece.entry.is_shard
    return any(isinstance(member, OtherMember) for member in piece.members)


@contextmanager
def _archive(path: Path, compression: Compression | None) -> Iterator[BinaryIO]:
    with replacing(path) as file:
        if compression is None:
            yield file
            return
        with compression.packed(file) as stream:
            yield stream


def _pass(stream: BinaryIO, output: BinaryIO | None, count: int) -> None:
    while count:
        block = _exactly(stream, min(count, BLOCK))
        if output is not None:
            output.write(block)
        count -= len(block)


def _exactly(stream: BinaryIO, count: int) -> bytes:
    block = stream.read(count)
    if len(block) < count:
        raise ReadError("changed", "the shard became shorter while it was copied; run it again at rest")
    return block


def _member(headers: bytes, content: bytes) -> bytes:
    """Return a member with new content: its headers, with the size and the checksum of the last one set anew.

    Raises:
        ReadError: "unsupported" if an extended header states the size too.
    """
    if b" size=" in headers[:-TAR_BLOCK]:
        raise ReadError("unsupported", "a label's size stands in an extended header; pack the shard anew, or use drop")
    header = bytearray(headers[-TAR_BLOCK:])
    header[124:136] = b"%011o\0" % len(content)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return headers[:-TAR_BLOCK] + bytes(header) + content + bytes(-len(content) % TAR_BLOCK)
