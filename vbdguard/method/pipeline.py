"""Stages 1 to 6: samples in, poisoned classes and flagged samples out, by the method that the settings name."""

from __future__ import annotations

from vbdguard.config import DirectMethodConfig, MethodConfig
from vbdguard.method.detection import ClassFinding, Detection, StageClock
from vbdguard.method.device import usual_torch
from vbdguard.method.direct import detect_direct
from vbdguard.method.population import Population
from vbdguard.method.published import detect_as_published
from vbdguard.method.samples import Samples
from vbdguard.progress import Progress, Silent

__all__ = ["ClassFinding", "Detection", "detect"]


def detect(
    data: Population | Samples,
    config: MethodConfig | DirectMethodConfig,
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> Detection:
    """Return which classes and samples are poisoned.

    Args:
        data: the training set, on the device that does the work; as a population, its images come when they are wanted.
        config: settings of stages 1 to 6.
        seed: seed of everything random.
        progress: hears of each stage.
    """
    clock = StageClock(progress or Silent())
    population = Population.of(data) if isinstance(data, Samples) else data
    with usual_torch():
        if isinstance(config, DirectMethodConfig):
            return detect_direct(population, config, seed=seed, clock=clock)
        return detect_as_published(population.whole(), config, seed=seed, clock=clock)
