from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from vbdguard.errors import ConfigError
from vbdguard.ingest.store import PixelStore
from vbdguard.progress import Silent
from vbdguard.training.course import Course, resolve_dtype
from vbdguard.training.lessons import Lessons, everything
from vbdguard.training.loop import signed_loss, train_epochs
from vbdguard.training.models import build_model
from vbdguard.training.pixels import Normalization, PixelFeed
from vbdguard.training.settings import TrainingSettings

CPU = torch.device("cpu")
PLAIN = Normalization((0.5,) * 3, (0.25,) * 3)


def course(store: PixelStore, lessons: Lessons | None = None, **changes: object) -> Course:
    choices = {"policy": "suppress", "epochs": 2, "batch_size": 64, "lr": 0.05, "weight_decay": 5e-4, "seed": 0}
    settings = TrainingSettings(**{**choices, "augment": True, **changes})  # type: ignore[arg-type]
    return Course(lessons or everything(store), PixelFeed(store, CPU), PLAIN, settings, 4, CPU, torch.float32)


def test_a_sample_to_unlearn_pushes_until_its_label_is_as_likely_as_any_other() -> None:
    losses = torch.tensor([0.5, 0.25, 3.0], requires_grad=True)
    loss = signed_loss(losses, torch.tensor([False, True, True]), n_classes=4)
    loss.backward()
    assert float(loss.detach()) == pytest.approx((0.5 - 0.25 - math.log(4)) / 3)
    assert losses.grad is not None
    assert losses.grad.tolist() == pytest.approx([1 / 3, -1 / 3, 0.0])


def test_without_samples_to_unlearn_the_loss_is_the_mean() -> None:
    losses = torch.tensor([0.5, 4.0])
    assert float(signed_loss(losses, torch.tensor([False, False]), 2)) == pytest.approx(2.25)


class Counting(Silent):
    def __init__(self) -> None:
        self.heard: list[object] = []

    def begin(self, stage: str, total: int | None) -> None:
        self.heard.append((stage, total))

    def advance(self, steps: int = 1) -> None:
        self.heard += [1] * steps

    def end(self) -> None:
        self.heard.append("end")


def test_progress_gets_a_step_per_batch(store: PixelStore) -> None:
    heard = Counting()
    train_epochs(
        build_model("small", 4, (16, 16, 3), seed=0), course(store), checkpoints=None, progress=heard, title="T"
    )
    assert heard.heard == [("T", 30), *[1] * 30, "end"]


def test_dropout_follows_the_seed_and_leaves_the_users_chance_alone(store: PixelStore) -> None:
    models = [nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(768, 4)) for _ in range(3)]
    for model in models:
        nn.init.zeros_(model[2].weight)  # type: ignore[arg-type]
        nn.init.zeros_(model[2].bias)  # type: ignore[arg-type]
    torch.random.manual_seed(3)
    expected = torch.rand(1)
    torch.random.manual_seed(3)
    for model, seed in zip(models, (1, 1, 2), strict=True):
        train_epochs(model, course(store, seed=seed), checkpoints=None, progress=Silent(), title="T")
    assert torch.equal(torch.rand(1), expected)
    first, again, other = (model[2].weight for model in models)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_loss_that_is_no_number_ends_the_training_with_the_remedy(store: PixelStore) -> None:
    model = build_model("small", 4, (16, 16, 3), seed=0)
    with pytest.raises(ConfigError, match=r"no longer a number in epoch 1; lr=1e\+30 is too high"):
        train_epochs(model, course(store, lr=1e30), checkpoints=None, progress=Silent(), title="T")


def test_fewer_lessons_than_a_batch_are_one_batch(store: PixelStore) -> None:
    few = Lessons(np.arange(10), store.labels[:10], np.zeros(10, dtype=bool))
    small = course(store, few)
    assert (small.batch_size, small.steps_per_epoch) == (10, 1)
    model = build_model("small", 4, (16, 16, 3), seed=0)
    assert len(train_epochs(model, small, checkpoints=None, progress=Silent(), title="T")) == 2


def test_amp_takes_bfloat16_or_not_as_told() -> None:
    assert resolve_dtype("on", CPU) == torch.bfloat16
    assert resolve_dtype("off", CPU) == torch.float32
    assert resolve_dtype("auto", CPU) in (torch.bfloat16, torch.float32)
    with pytest.raises(ConfigError, match="amp must be auto, on or off, got 'fp8'"):
        resolve_dtype("fp8", CPU)  # type: ignore[arg-type]
