"""What kind of thing a user hands in, told by the names of its classes: no framework is imported to ask."""

from __future__ import annotations

from typing import Any


def is_a(target: Any, package: str, *names: str) -> bool:
    """Return whether `target` is an instance of a package's class of one of these names, or of a subclass.

    Args:
        target: anything.
        package: the package or module that defines the class, or one above it: "torch", "datasets.arrow_dataset".
        names: bare class names.
    """
    return any(kind.__name__ in names and is_made_in(kind, package) for kind in type(target).__mro__)


def is_exactly(target: Any, package: str, *names: str) -> bool:
    """Return whether `target` is of one of these classes itself; a subclass may do something else."""
    kind = type(target)
    return kind.__name__ in names and is_made_in(kind, package)


def is_made_in(kind: type, package: str) -> bool:
    """Return whether a class is defined in a package or below it."""
    return kind.__module__ == package or kind.__module__.startswith(f"{package}.")
