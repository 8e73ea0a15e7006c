"""Which methods the bench knows, by name: ours and the rivals."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path

from benchmarks.methods import NEEDS, Method
from benchmarks.ours import OURS
from benchmarks.rivals import methods as rivals_with
from benchmarks.rivals.settings import NetworkSettings

_SETTINGS = {one.name: float if one.name == "lr" else int for one in fields(NetworkSettings)}


@dataclass(frozen=True, slots=True)
class RivalOptions:
    """How the rivals' networks differ from the published ones, and where trained ones are kept."""

    changes: Mapping[str, float] = field(default_factory=dict)
    """Fields of `NetworkSettings`; they stand behind the name of each rival, so that no table mistakes it."""
    folder: Path | None = None

    @classmethod
    def parse(cls, texts: Iterable[str], folder: Path | None = None) -> RivalOptions:
        """Return the options that texts such as `width=16` and `victim_epochs=10` name.

        Raises:
            ValueError: if a text names no setting or no number.
        """
        changes = {}
        for text in texts:
            name, _, value = text.partition("=")
            if name not in _SETTINGS:
                raise ValueError(f"expected NAME=NUMBER with a name among {', '.join(_SETTINGS)}, got {text!r}")
            changes[name] = _SETTINGS[name](value)
        return cls(changes, folder)

    def methods(self) -> Mapping[str, Method]:
        """Return the rivals by plain name."""
        return rivals_with(NetworkSettings(**self.changes), folder=self.folder)  # type: ignore[arg-type]  # see _SETTINGS

    def label(self, name: str) -> str:
        """Return the name of a rival in records: `abl`, or `abl@victim_epochs=10,width=16`."""
        changes = ",".join(f"{key}={self.changes[key]:g}" for key in sorted(self.changes))
        return f"{name}@{changes}" if changes else name


def plain_name(label: str) -> str:
    """Return a method's name without its settings."""
    return label.partition("@")[0]


def choose(names: Iterable[str], options: RivalOptions | None = None) -> dict[str, Method]:
    """Return the methods that names stand for by their names in records; `rivals` stands for all of them.

    Raises:
        ValueError: if nobody knows a name, or a method asks for what the bench does not hand out.
    """
    options = options or RivalOptions()
    ours: Mapping[str, Method] = {method.name: method for method in OURS.values()}
    rivals = options.methods()
    chosen: dict[str, Method] = {}
    for name in names:
        if name in ours:
            chosen[name] = ours[name]
        elif name in rivals:
            chosen[options.label(name)] = rivals[name]
        elif name == "rivals":
            chosen |= {options.label(rival): method for rival, method in rivals.items()}
        else:
            raise ValueError(
                f"no method {name!r}; choose among {', '.join((*ours, *rivals))}, or rivals for all of them"
            )
    for label, method in chosen.items():
        if not method.needs <= NEEDS:
            raise ValueError(f"method {label} needs {set(method.needs)}, the bench hands out {set(NEEDS)}")
    return chosen
