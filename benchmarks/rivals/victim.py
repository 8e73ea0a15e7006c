"""The poisoned model whose inner life most rivals look at: PreAct-ResNet18, trained on the data as they are."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from benchmarks.methods import Task
from benchmarks.rivals.fitting import fit, new_network
from benchmarks.rivals.pixels import Pixels, measured_normalization
from benchmarks.rivals.settings import NetworkSettings
from vbdguard.training.models import PreActResNet18
from vbdguard.training.pixels import Normalization


@dataclass(frozen=True, slots=True, eq=False)
class Victim:
    """A trained model with the images that it was trained on."""

    network: PreActResNet18
    """In eval mode, on the device."""
    pixels: Pixels
    """The N images of the task."""
    seconds: float
    """What its training took, once for all methods that share it."""
    settings: Mapping[str, Any]
    """How it was trained, fit for JSON."""
    is_learnt: NDArray[np.bool_]
    """(N,), where it gives an image the label that it was taught."""

    @property
    def device(self) -> torch.device:
        """Where it lives."""
        return self.pixels.device

    @property
    def normalization(self) -> Normalization:
        """What its inputs are normalised with."""
        return self.pixels.normalization


def train_victim(
    data: Task, settings: NetworkSettings, *, seed: int, device: torch.device, kept_at: Path | None = None
) -> Victim:
    """Return the model trained on a task, or the one kept in a file.

    Args:
        data: the task.
        settings: of the network.
        seed: of initial weights, order and augmentation.
        device: where it is trained.
        kept_at: a safetensors file; read if it is there, else written. None keeps nothing.
    """
    pixels = Pixels.load(data.images, measured_normalization(data.images), device)
    fitting = settings.victim(data.images.shape[1])
    network = new_network(data.n_classes, pixels.image_shape, width=settings.width, seed=seed).to(device)
    if kept_at and kept_at.exists():
        network.load_state_dict(load_file(kept_at, device=str(device)))
        network.eval()
        seconds = _kept_seconds(kept_at)
    else:
        start = time.perf_counter()
        fit(network, pixels, torch.from_numpy(data.labels).to(device), fitting, seed=seed)
        seconds = time.perf_counter() - start
        if kept_at:
            _keep(network, seconds, kept_at)
    is_learnt = _predictions(network, pixels) == data.labels
    return Victim(network, pixels, seconds, {"width": settings.width, "victim": asdict(fitting)}, is_learnt)


@torch.no_grad()
def _predictions(network: PreActResNet18, pixels: Pixels) -> NDArray[np.int64]:
    return torch.cat([network(images).argmax(1) for images in pixels.batches()]).cpu().numpy()


def _keep(network: PreActResNet18, seconds: float, path: Path) -> None:
    """Write the weights aside and move them into place: a run that is stopped leaves no half file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".partial")
    save_file(network.state_dict(), aside, metadata={"seconds": json.dumps(seconds)})
    aside.replace(path)


def _kept_seconds(path: Path) -> float:
    with safe_open(path, framework="pt") as file:
        return float(json.loads(file.metadata()["seconds"]))
