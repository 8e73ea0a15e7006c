"""The network of the oracle ceiling: it sees a trigger's surroundings and tells stamped from clean."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from vbdguard.method.device import large_buffers_reused
from vbdguard.method.samples import centred

_CONTRAST = 64.0
"""Grey levels that make one unit of the network's input."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OracleSettings:
    """How the oracle looks and learns."""

    images: int = 40_000
    """Images of other classes, each used clean and stamped; half of them teach, the other half judge, and back."""
    margin: int = 4
    """Pixels around the trigger's bounding box."""
    max_side: int = 16
    """Longest side of the window."""
    filters: tuple[int, int, int] = (32, 32, 64)
    epochs: int = 6
    batch_size: int = 256
    """Images of each kind in a batch."""
    lr: float = 2e-3
    weight_decay: float = 1e-3
    dropout: float = 0.3


def cross_fitted_logits(
    clean: NDArray[np.uint8],
    stamped: NDArray[np.uint8],
    mask: NDArray[np.bool_],
    settings: OracleSettings,
    *,
    seed: int,
    device: torch.device,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return for each image the log-odds of being stamped, by a network that learned from other images.

    Args:
        clean: uint8 (n, H, W, 3), n at least 4.
        stamped: the same images with the trigger.
        mask: bool (H, W), where the trigger lies.
        settings: of the network.
        seed: of weights and batches.
        device: where it learns.

    Returns:
        float64 (n,) of the clean images and of the stamped ones, at even odds of clean and stamped.
    """
    rows, columns = window(mask, settings)
    crops = [torch.from_numpy(part[:, rows, columns].copy()).to(device) for part in (clean, stamped)]
    logits = torch.zeros(2, len(clean), dtype=torch.float64)
    fold = torch.arange(len(clean)) % 2
    with large_buffers_reused():
        for judged in range(2):
            teach, judge = ((fold != judged).nonzero().squeeze(1), (fold == judged).nonzero().squeeze(1))
            network = _fit([part[teach.to(device)] for part in crops], settings, seed + judged, device)
            for kind, part in enumerate(crops):
                logits[kind, judge] = _judge(network, part[judge.to(device)]).double().cpu()
    return logits[0].numpy(), logits[1].numpy()


def window(mask: NDArray[np.bool_], settings: OracleSettings) -> tuple[slice, slice]:
    """Return rows and columns of the trigger with its margin, moved inside the image and cut to the longest side."""
    spans = []
    for axis in (1, 0):
        set_lines = np.flatnonzero(mask.any(axis=axis))
        length = mask.shape[1 - axis]
        side = min(int(np.ptp(set_lines)) + 1 + 2 * settings.margin, settings.max_side, length)
        start = int(set_lines[0] + set_lines[-1] + 1 - side) // 2
        start = min(max(start, 0), length - side)
        spans.append(slice(start, start + side))
    return spans[0], spans[1]


def _network(settings: OracleSettings) -> nn.Sequential:
    first, second, third = settings.filters
    return nn.Sequential(
        *(nn.Conv2d(3, first, 3), nn.ReLU(), nn.Conv2d(first, second, 3), nn.ReLU()),
        *(nn.Conv2d(second, third, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(5), nn.Flatten()),
        *(nn.Dropout(settings.dropout), nn.Linear(25 * third, 64), nn.ReLU(), nn.Linear(64, 1)),
    )


def _fit(crops: list[Tensor], settings: OracleSettings, seed: int, device: torch.device) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)  # weights and dropout; forked, so that nobody else's draws change
        network = _network(settings).to(device)
        n = len(crops[0])
        batches = -(-n // settings.batch_size)
        optimizer = torch.optim.AdamW(network.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.lr, total_steps=batches * settings.epochs)
        for _ in range(settings.epochs):
            for batch in torch.randperm(n, generator=generator).split(settings.batch_size):
                pixels = torch.cat([part[batch.to(device)] for part in crops])
                target = torch.arange(2, device=device).repeat_interleave(len(batch)).float()
                loss = F.binary_cross_entropy_with_logits(network(_scaled(pixels)).squeeze(1), target)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
    return network.eval()


@torch.no_grad()
def _judge(network: nn.Module, crops: Tensor) -> Tensor:
    return torch.cat([network(_scaled(batch)).squeeze(1) for batch in crops.split(4096)])


def _scaled(crops: Tensor) -> Tensor:
    return centred(crops) / _CONTRAST
