"""vbdguard: find backdoor poisoning in image-classification data before it is trained on."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vbdguard.cleaning.clean_copy import clean
    from vbdguard.config import ScanConfig
    from vbdguard.guards.dataset import GuardedDataset
    from vbdguard.guards.wrapping import guard
    from vbdguard.partial_scans import merge, scan_share
    from vbdguard.report import ScanReport
    from vbdguard.scanner import scan
    from vbdguard.training.train import train_clean

__version__ = "0.1.0"

__all__ = [
    "GuardedDataset",
    "ScanConfig",
    "ScanReport",
    "__version__",
    "clean",
    "guard",
    "merge",
    "scan",
    "scan_share",
    "train_clean",
]

_HOMES = {
    "GuardedDataset": "vbdguard.guards.dataset",
    "ScanConfig": "vbdguard.config",
    "ScanReport": "vbdguard.report",
    "clean": "vbdguard.cleaning.clean_copy",
    "guard": "vbdguard.guards.wrapping",
    "merge": "vbdguard.partial_scans",
    "scan": "vbdguard.scanner",
    "scan_share": "vbdguard.partial_scans",
    "train_clean": "vbdguard.training.train",
}
"""Where the public names live; each is imported when it is first used, since torch takes seconds to load."""


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
