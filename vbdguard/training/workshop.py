"""Build networks for one data set and train them, with checkpoints where they are wanted."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from blake3 import blake3
from torch import nn

from vbdguard.ingest.store import PixelStore
from vbdguard.progress import Progress
from vbdguard.training.checkpoint import Checkpoints
from vbdguard.training.course import Course
from vbdguard.training.initial import InitialWeights
from vbdguard.training.loop import OnEpoch, train_epochs
from vbdguard.training.models import ModelChoice, build_model, model_name
from vbdguard.training.result import EpochResult


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Workshop:
    """What all trainings on one data set share."""

    store: PixelStore
    dataset_digest: str
    model: ModelChoice
    initial: InitialWeights | None
    checkpoint_dir: Path | None
    resume: bool
    progress: Progress

    def build(self, course: Course) -> nn.Module:
        """Return a network on the course's device, with the initial weights where there are any.

        Raises:
            ConfigError: if model, weights and data do not fit together.
        """
        network = build_model(self.model, course.n_classes, self.store.image_shape, seed=course.settings.seed)
        if self.initial is not None:
            self.initial.put_into(network)
        return network.to(course.device, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]

    def train(
        self, network: nn.Module, course: Course, *, title: str, folder: str = "", on_epoch: OnEpoch | None = None
    ) -> tuple[EpochResult, ...]:
        """Train a network in place, leave it in evaluation mode, and return how each epoch went.

        Args:
            network: from `build`.
            course: what it learns and how.
            title: what the progress calls it.
            folder: where below `checkpoint_dir` its checkpoints lie.
            on_epoch: hears of each epoch.

        Raises:
            ConfigError: if the checkpoint there is of another training, or the loss is no longer a number.
        """
        checkpoints = None
        if self.checkpoint_dir is not None:
            identity = self.identity(network, course)
            checkpoints = Checkpoints(
                self.checkpoint_dir / folder, identity, metadata=self._metadata(course), resume=self.resume
            )
        history = train_epochs(
            network, course, checkpoints=checkpoints, progress=self.progress, title=title, on_epoch=on_epoch
        )
        network.eval()
        return history

    def identity(self, network: nn.Module, course: Course) -> dict[str, Any]:
        """Return everything that decides the trained weights, JSON-ready."""
        shapes = {name: list(tensor.shape) for name, tensor in network.state_dict().items()}
        return {
            "dataset": self.dataset_digest,
            "model": model_name(self.model),
            "shapes": blake3(json.dumps(shapes).encode()).hexdigest(),
            "init": self.initial.digest() if self.initial is not None else None,
            **course.identity(),
        }

    def _metadata(self, course: Course) -> dict[str, str]:
        return {
            "model": model_name(self.model),
            "mean": json.dumps(course.normalization.mean),
            "std": json.dumps(course.normalization.std),
            "classes": json.dumps(dict(zip(self.store.class_labels, self.store.class_names, strict=True))),
        }
