"""The engine that the settings name."""

from __future__ import annotations

from vbdguard.engines.base import Engine, EngineName, processors
from vbdguard.engines.limits import Limits
from vbdguard.engines.local import Workers


def open_engine(name: EngineName, *, jobs: int | None, limits: Limits | None) -> Engine:
    """Return an engine, to be entered by `with`.

    Args:
        name: which.
        jobs: how many items are worked on at once; None takes one per core, or all that a Ray cluster has.
        limits: what one item may cost; None sets no bounds.
    """
    if name == "ray":
        from vbdguard.engines.ray_tasks import RayTasks

        return RayTasks(jobs, limits)
    return Workers(jobs or processors(), limits)
