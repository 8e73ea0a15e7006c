"""What is guarded already."""

from __future__ import annotations

from typing import Any

from vbdguard.guards.kinds import is_a, is_made_in
from vbdguard.sources.torch_views import is_plain


def is_guarded(data: Any) -> bool:
    """Return whether no unguarded sample can come out of a dataset: it is a guard, or made of nothing but guards."""
    if is_plain(data, "Subset"):
        return is_guarded(data.dataset)
    if is_plain(data, "ConcatDataset"):
        return all(is_guarded(part) for part in data.datasets)
    if is_a(data, "vbdguard", "GuardedDataset", "GuardedStream"):
        return True
    # Pipelines and datasets of a framework's own type bear a record of their guard instead.
    return is_made_in(type(getattr(data, "vbdguard", None)), "vbdguard")
