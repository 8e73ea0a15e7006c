"""Which code a result comes from: between two releases the version stays the same, and what a scan finds may not."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from blake3 import blake3

from vbdguard import __version__

_PACKAGE = Path(__file__).parent
_JUDGING = ("config.py", "ingest", "method", "sources")
"""What decides which samples a scan sees, and what it makes of them."""
_DIGITS = 16


@cache
def code_digest() -> str:
    """Return 16 hex digits that change with the code that reads and judges samples, the same on every platform."""
    paths = [path for name in _JUDGING for path in _sources(_PACKAGE / name)]
    hasher = blake3()
    for name, path in sorted((path.relative_to(_PACKAGE).as_posix(), path) for path in paths):
        text = path.read_text(encoding="utf-8").encode()  # line ends differ between platforms
        hasher.update(b"%s\0%d\0%s" % (name.encode(), len(text), text))
    return hasher.hexdigest()[:_DIGITS]


def build() -> str:
    """Return the version with the digest of its code, such as `0.1.0+8a477f597d28d172`."""
    return f"{__version__}+{code_digest()}"


def _sources(place: Path) -> list[Path]:
    return [place] if place.is_file() else list(place.rglob("*.py"))
