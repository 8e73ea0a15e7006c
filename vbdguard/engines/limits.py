"""What one shard may cost a worker before it is given up."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds on the work at one item; what exceeds them is lost, the rest goes on."""

    seconds: float
    """Wall-clock time; a worker that takes longer is killed."""
    memory_bytes: int
    """Of a worker's own data; more raises MemoryError there. Not every system enforces it (Linux does)."""


def hold_to_memory(limits: Limits) -> None:
    """Let this process have no more memory than the limits allow, where the system can see to it."""
    try:
        import resource
    except ImportError:  # Windows
        return
    # Not RLIMIT_AS: Arrow reserves far more addresses than it ever uses, and mapped files are no cost.
    _, ceiling = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = limits.memory_bytes if ceiling == resource.RLIM_INFINITY else min(limits.memory_bytes, ceiling)
    resource.setrlimit(resource.RLIMIT_DATA, (wanted, ceiling))
