"""Cutting an ImageFolder: every file keeps its path, under the kept ones or in the quarantine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from vbdguard.sources.base import Unreadable
from vbdguard.sources.cutting import Fate, Places, Rule, Ruling, Written, copy_file, is_safe_name
from vbdguard.sources.folder import FolderShard


@dataclass(frozen=True, slots=True)
class FolderPlan:
    """A slice of a folder and what becomes of its files, one ruling each."""

    shard: FolderShard
    rulings: Sequence[Ruling]
    others: Sequence[Unreadable] = ()
    digest: str = ""

    def write(self, places: Places, *, link: bool) -> tuple[Written, ...]:
        """Copy each file to its place; see `CuttingPlan`."""
        parts: dict[Fate, list[tuple[str, str]]] = {fate: [] for fate in (Fate.KEPT, Fate.FLAGGED, Fate.SKIPPED)}
        roots = {Fate.KEPT: places.kept, Fate.FLAGGED: places.flagged, Fate.SKIPPED: places.skipped}
        for (path, label), ruling in zip(self.shard.files, self.rulings, strict=True):
            if ruling.is_refused or not ruling.digest:
                continue
            fate = Fate.KEPT if ruling.fate.stays else ruling.fate
            new_path, new_label = _renamed(path, label, ruling)
            dest = roots[fate] / new_path
            dest.parent.mkdir(parents=True, exist_ok=True)
            copy_file(str(Path(self.shard.root, path)), dest, link=link)
            parts[fate].append((new_path, new_label))
        return tuple(
            Written(
                fate,
                FolderShard(str(root), self.shard.name, tuple(files), self.shard.exif),
                tuple(root / path for path, _ in files),
            )
            for fate, root in roots.items()
            if (files := parts[fate])
        )


def plan_folder(shard: FolderShard, rule: Rule) -> FolderPlan:
    """Return what becomes of each file of a slice."""
    rulings = []
    for (path, label), entry in zip(shard.files, shard.read(), strict=True):
        ruling = rule(entry)
        if not is_safe_name(path):
            ruling = ruling.refused(
                "unsafe-name", f"expected a path below the root, got {path!r:.200}; rename the file"
            )
        elif ruling.fate is Fate.RELABELLED and _is_taken(shard, path, label, ruling):
            ruling = ruling.not_relabelled()
        rulings.append(ruling)
    return FolderPlan(shard, rulings)


def _renamed(path: str, label: str, ruling: Ruling) -> tuple[str, str]:
    """Return where a file goes and its class there."""
    if ruling.fate is not Fate.RELABELLED:
        return path, label
    # The new class may have a file of the old name, so the digest goes into it.
    inner = PurePath(*PurePath(path).parts[1:])
    new = PurePath(str(ruling.new_label), inner.with_name(f"{inner.stem}-{ruling.digest[:16]}{inner.suffix}"))
    return str(new), str(ruling.new_label)


def _is_taken(shard: FolderShard, path: str, label: str, ruling: Ruling) -> bool:
    new_path = _renamed(path, label, ruling)[0]
    return not is_safe_name(new_path) or Path(shard.root, new_path).exists()
