"""What a defence is handed and what it gives back: the interface that our method and its rivals share in the bench."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

NEEDS = frozenset({"clean", "ratio"})
"""What a method may ask for beside the data: some clean samples, or the share of poison."""


@dataclass(frozen=True, slots=True)
class Task:
    """One poisoned (or clean) data set as a defence sees it; the truth stays with the bench."""

    images: NDArray[np.uint8]
    """(N, H, W, C), values 0 to 255."""
    labels: NDArray[np.int64]
    """(N,), 0 to n_classes - 1, as poisoned."""
    n_classes: int
    clean_images: NDArray[np.uint8] | None = None
    """(M, H, W, C) from the test split, ten of each class as in the paper; None unless the method needs "clean"."""
    clean_labels: NDArray[np.int64] | None = None
    """(M,) true labels of `clean_images`."""
    ratio: float | None = None
    """Share of poisoned samples, 0 to 1; None unless the method needs "ratio"."""

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or len(self.images) != len(self.labels):
            raise ValueError(
                f"expected images (N, H, W, C) with N labels, got {self.images.shape} and {self.labels.shape}"
            )
        if (self.clean_images is None) != (self.clean_labels is None):
            raise ValueError("expected clean images and clean labels together, or neither")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a defence says about a task."""

    is_flagged: NDArray[np.bool_]
    """(N,), true where a sample is called poisoned."""
    accused: frozenset[int]
    """Labels of the classes called poisoned."""
    seconds: Mapping[str, float]
    """Seconds per stage, by the method's own names of its stages."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """The settings that it ran with, fit for JSON; they stand in the record."""
    is_learnt: NDArray[np.bool_] | None = None
    """(N,), true where the poisoned model that the method looked into gives a sample the label that it bears; None
    without such a model. What poison does to a model is not to be found in one that has not learnt it."""


class Method(Protocol):
    """A defence that tells poisoned samples from clean ones before a model is trained on them for good."""

    @property
    def name(self) -> str:
        """The name on the command line, in records and in tables."""

    @property
    def needs(self) -> frozenset[str]:
        """Which of `NEEDS` its tasks have to hold."""

    def detect(self, data: Task, *, seed: int, device: torch.device) -> Verdict:
        """Return which samples and which classes are called poisoned.

        Args:
            data: the task, with what `needs` names.
            seed: of everything random in the method.
            device: where its tensors live.
        """
