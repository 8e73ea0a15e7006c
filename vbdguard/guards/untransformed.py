"""The kept samples of a guarded dataset as a scan wants them: guards inside guards, and guards inside subsets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vbdguard.guards.relabel import relabelled
from vbdguard.guards.verdict import Verdict


@dataclass(frozen=True, slots=True, eq=False)
class Untransformed:
    """What the scan saw, at a guard's own indices, and under the classes that training sees."""

    raw: Any
    """A dataset of N untransformed items, or a function from an inner index to one."""
    verdict: Verdict

    def __len__(self) -> int:
        return len(self.verdict.kept)

    def __getitem__(self, index: int) -> Any:
        inner = self.verdict.kept.item(index)
        item = self.raw[inner] if hasattr(self.raw, "__getitem__") else self.raw(inner)
        change = self.verdict.new_labels.get(inner)
        return item if change is None else relabelled(item, change)
