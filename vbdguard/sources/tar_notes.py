"""What is told of a shard besides its samples: whatever readers do not agree on, or pass over in silence.

webdataset passes over links and names that it cannot split, and takes any name for a key. Whoever unpacks the shard, or
reads it with another library, may see other samples than the scan: so each of these is an entry of the report.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from vbdguard.sources.base import Unreadable
from vbdguard.sources.cutting import is_safe_name
from vbdguard.sources.tar_members import OtherMember, TarFile

IMAGE_FIELDS = frozenset({"jpg", "jpeg", "png", "webp", "bmp", "tif", "tiff", "ppm", "pgm"})


_SUSPICIOUS = re.compile(r"\.\.|\\|:|\0|^/", re.MULTILINE)
"""No name is unsafe without one of these; few have one. Names are looked at line by line."""
NOTES_ON_SAMPLES = frozenset({"unsafe-name", "repeated-key"})
"""Reasons of entries that speak of a sample which was read all the same."""


class TarNotes:
    """Looks at the members of one shard in their order and tells what is to be said of them.

    Args:
        shard: the shard's name, which keys begin with.
    """

    def __init__(self, shard: str) -> None:
        self._shard = shard
        self._seen: set[int] = set()

    def of_group(self, key: str, members: Sequence[TarFile | OtherMember]) -> list[Unreadable]:
        """Return what is to be said of the members of one key, beside the sample that they are."""
        notes = []
        names = [member.name for member in members]
        if _SUSPICIOUS.search("\n".join(names)) and not all(map(is_safe_name, names)):
            detail = "expected a name below the folder that the shard is unpacked in; the sample was read, rename it"
            notes.append(self._note(key, "unsafe-name", detail))
        # Hashes, for memory: a false alarm among a million keys has a chance of one in ten million.
        place = hash(key)
        if place in self._seen:
            notes.append(
                self._note(
                    key,
                    "repeated-key",
                    "expected the members of a key side by side, once; the samples were read as webdataset reads them, "
                    "other readers keep one of them: rename them",
                )
            )
        self._seen.add(place)
        return notes

    def of_other(self, member: OtherMember) -> Unreadable | None:
        """Return what is to be said of a member that is no file, None for a folder."""
        if member.is_folder:
            return None
        return self._note(
            member.name,
            member.what,
            f"expected files and folders, got a {member.what}, which some readers follow and others pass over; "
            "pack the shard anew with the file itself",
        )

    def of_unused(self, members: Sequence[TarFile | OtherMember]) -> Unreadable | None:
        """Return what is to be said of members that are no sample: nothing, unless one is an image by its name."""
        for member in members:
            if isinstance(member, TarFile) and member.name.rpartition(".")[2].lower() in IMAGE_FIELDS:
                return self._note(
                    member.name,
                    "hidden-image",
                    "webdataset makes no sample of an image of this name, other readers may; rename it or take it out",
                )
        return None

    def _note(self, name: str, reason: str, detail: str) -> Unreadable:
        return Unreadable(f"{self._shard}/{name}", reason, detail)
