"""Published defences to compare with, each written from its paper; the file of each names paper, settings, departures.

    from benchmarks.rivals import METHODS
    verdict = METHODS["scan"].detect(task, seed=0, device=torch.device("cpu"))

Listing them loads no torch. Methods of one mapping share one training of the poisoned model per task and seed.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from benchmarks.methods import Method, Task, Verdict
from benchmarks.rivals.settings import NetworkSettings
from benchmarks.rivals.victims import Victims

if TYPE_CHECKING:
    import torch

_MODULES: Mapping[str, frozenset[str]] = {
    "abl": frozenset({"ratio"}),
    "agpd": frozenset({"clean"}),
    "scan": frozenset({"clean"}),
    "activation_clustering": frozenset(),
    "spectral": frozenset({"ratio"}),
    "flare": frozenset(),
    "strip": frozenset({"clean"}),
}
"""Each method's module and what its tasks must hold."""


@dataclass(frozen=True, slots=True, eq=False)
class Rival:
    """A method of this folder; its module is imported when it runs."""

    name: str
    needs: frozenset[str]
    victims: Victims

    def detect(self, data: Task, *, seed: int, device: torch.device) -> Verdict:
        """Return which samples and classes are called poisoned.

        Raises:
            ValueError: if the task lacks what the method needs.
        """
        module = importlib.import_module(f"benchmarks.rivals.{self.name}")
        verdict: Verdict = module.detect(data, self.victims, seed=seed, device=device)
        return verdict


def methods(settings: NetworkSettings | None = None, *, folder: Path | None = None) -> Mapping[str, Method]:
    """Return all rivals by name.

    Args:
        settings: width, epochs and batch size of the networks; None as published.
        folder: where trained models are kept between runs; None keeps them in memory alone.
    """
    victims = Victims(settings or NetworkSettings(), folder)
    return MappingProxyType({name: Rival(name, needs, victims) for name, needs in _MODULES.items()})


METHODS: Mapping[str, Method] = methods()
"""All rivals, with the published settings."""
