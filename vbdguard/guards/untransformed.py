"""The kept samples of a guarded dataset as a scan wants them: guards inside guards, and guards inside subsets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from vbdguard.guards.relabel import relabelled
from vbdguard.guards.verdict import Verdict


@dataclass(frozen=True, slots=True, eq=False)
class Untransformed:
    """What the scan saw, at a guard's own indices, and under the classes that training sees."""

    fetch: Callable[[int], Any]
    """Gives an untransformed item by its inner index."""
    verdict: Verdict

    def __len__(self) -> int:
        return len(self.verdict.kept)

    def __getitem__(self, index: int) -> Any:
        inner = self.verdict.kept.item(index)
        item = self.fetch(inner)
        change = self.verdict.new_labels.get(inner)
        return item if change is None else relabelled(item, change)
