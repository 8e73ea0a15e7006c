"""What stages 1 to 6 say, whichever method ran them, and the clock that times them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor

from vbdguard.method.device import large_buffers_reused
from vbdguard.method.trigger import TriggerCandidate
from vbdguard.progress import Progress


@dataclass(frozen=True, slots=True)
class Artefact:
    """What looks like a trigger and is none: the samples that bear it belong to their class."""

    pattern: TriggerCandidate
    blend_factor: float
    bearers: int
    """Samples that bear it more likely than not."""


@dataclass(frozen=True, slots=True)
class ClassFinding:
    """What stages 1 to 6 say about one class."""

    label: int
    is_poisoned: bool
    p_value: float | None
    """Chance of such evidence in a clean class: the smallest Kolmogorov-Smirnov p-value over the models, or that of the
    model whose trigger was kept (published method); the label check's (preset `default`, None where nothing was found).
    """
    attack_success_rate: float | None
    trigger: TriggerCandidate | None
    """Set where the class is poisoned."""
    blend_factor: float | None
    mean_gradient: Tensor | None = None
    """float (C, H, W), the gradient that the trigger was found in (published method), None where there is none."""
    artefact: Artefact | None = None


@dataclass(frozen=True, slots=True)
class Detection:
    """The outcome of stages 1 to 6."""

    classes: tuple[ClassFinding, ...]
    is_flagged: Tensor
    """bool (N,)."""
    scores: Tensor
    """float (N,) in [0, 1]."""
    suggested: Tensor
    """int64 (N,): a likely true class for flagged samples, -1 for others."""
    seconds: dict[str, float]
    """Wall-clock seconds per stage."""


class StageClock:
    """Times the stages and tells the listener of them."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str, total: int | None = None) -> Iterator[Progress]:
        """Time what runs inside as a stage of `total` steps (None: not known beforehand)."""
        self.progress.begin(stage, total)
        start = time.perf_counter()
        try:
            # Per stage, so that what one stage kept for reuse is given back before the next.
            with large_buffers_reused():
                yield self.progress
        finally:
            self.seconds[stage] = time.perf_counter() - start
            self.progress.end()
