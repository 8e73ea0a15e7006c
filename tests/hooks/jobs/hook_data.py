"""A small dataset whose scan takes a fraction of a second, for tests and for the jobs that they start."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.data import Dataset, TensorDataset

from vbdguard.config import (
    AttackCheckConfig,
    DetectorConfig,
    EnsembleConfig,
    MethodConfig,
    ScanConfig,
    SuspectsConfig,
)

COUNT = 90
CLASSES = 3
QUICK = ScanConfig(
    device="cpu",
    jobs=1,
    method=MethodConfig(
        ensemble=EnsembleConfig(architectures=((4,),), epochs=1, train_share=1.0),
        suspects=SuspectsConfig(significance=1.0),
        attack_check=AttackCheckConfig(min_success_rate=0.0),
        detector=DetectorConfig(epochs=2, lr=0.1, min_accuracy=0.0),
    ),
)
"""Accuses innocent classes: here it matters what becomes of flagged samples, not which they are."""


def make_tensors(*, seed: int = 0) -> TensorDataset:
    """Three classes of 16 x 16 noise around a brightness of their own; the first value of an image is its index."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(COUNT) % CLASSES
    noise = torch.randint(0, 150, (COUNT, 3, 16, 16), generator=generator)
    images = (noise + 50 * labels[:, None, None, None]).to(torch.uint8)
    images[:, 0, 0, 0] = torch.arange(COUNT)
    return TensorDataset(images, labels)


def indices_of(images: torch.Tensor) -> list[int]:
    """Return which samples are in a batch (n, 3, 16, 16)."""
    return [int(index) for index in images[:, 0, 0, 0]]


class Named(Dataset[Any]):
    """The same samples as dicts, with a column that no model takes."""

    def __init__(self) -> None:
        self.inner = make_tensors()

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, index: int) -> dict[str, Any]:
        image, label = self.inner[index]
        return {"pixel_values": image, "labels": int(label), "comment": f"sample {index}"}
