"""Which methods the bench knows, by name: ours and the rivals."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib import import_module

from benchmarks.methods import NEEDS, Method
from benchmarks.ours import OURS


def rivals() -> Mapping[str, Method]:
    """Return the rivals by name; their module is only read when somebody asks for them."""
    methods: Mapping[str, Method] = import_module("benchmarks.rivals").METHODS
    return methods


def choose(names: Iterable[str]) -> list[Method]:
    """Return the methods that names stand for, each once; `rivals` stands for all of them.

    Raises:
        ValueError: if nobody knows a name, or a method asks for what the bench does not hand out.
    """
    chosen: dict[str, Method] = {}
    for name in names:
        chosen |= {name: OURS[name]} if name in OURS else _rivals_named(name)
    for method in chosen.values():
        if not method.needs <= NEEDS:
            raise ValueError(f"method {method.name} needs {set(method.needs)}, the bench hands out {set(NEEDS)}")
    return list(chosen.values())


def _rivals_named(name: str) -> Mapping[str, Method]:
    known = rivals()
    if name == "rivals":
        return known
    if name not in known:
        raise ValueError(f"no method {name!r}; choose among {', '.join((*OURS, *known))}, or rivals for all of them")
    return {name: known[name]}
