"""What kind of thing a user hands in, told by the names of its classes: no framework is imported to ask."""

from __future__ import annotations

from typing import Any


def is_a(target: Any, package: str, *names: str) -> bool:
    """Return whether `target` is an instance of a package's class of one of these names, or of a subclass.

    Args:
        target: anything.
        package: the top-level package that defines the class, such as "torch".
        names: bare class names.
    """
    return any(kind.__name__ in names and _package(kind) == package for kind in type(target).__mro__)


def _package(kind: type) -> str:
    return kind.__module__.partition(".")[0]
