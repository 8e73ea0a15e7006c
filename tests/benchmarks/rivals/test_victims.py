from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmarks.methods import Task
from benchmarks.rivals.activations import logits
from benchmarks.rivals.fitting import fit
from benchmarks.rivals.pixels import Pixels, measured_normalization
from benchmarks.rivals.settings import NetworkSettings
from benchmarks.rivals.victims import Victims
from vbdguard.errors import ConfigError

from .conftest import CPU, Poisoning

QUICK = NetworkSettings(width=8, victim_epochs=1, batch_size=32, lr=0.05)


@pytest.fixture
def small(poisoning: Poisoning) -> Task:
    return replace(poisoning.task, images=poisoning.task.images[:64], labels=poisoning.task.labels[:64])


def weights(victims: Victims, task: Task, seed: int = 0) -> list[Tensor]:
    return list(victims.of(task, seed=seed, device=CPU).network.state_dict().values())


def same(left: list[Tensor], right: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


def test_the_victim_has_learnt_classes_and_trigger(poisoning: Poisoning) -> None:
    victim = poisoning.victim
    is_obeyed = logits(victim, victim.pixels).argmax(1).numpy() == poisoning.task.labels
    assert is_obeyed[poisoning.is_poisoned].mean() > 0.9
    assert is_obeyed[~poisoning.is_poisoned].mean() > 0.8
    assert np.array_equal(victim.is_learnt, is_obeyed)


def test_methods_on_one_task_share_one_training(small: Task) -> None:
    victims = Victims(QUICK)
    assert victims.of(small, seed=0, device=CPU) is victims.of(small, seed=0, device=CPU)


def test_another_seed_or_other_labels_train_anew(small: Task) -> None:
    victims = Victims(QUICK)
    first = weights(victims, small)
    assert not same(first, weights(victims, small, seed=1))
    assert not same(first, weights(victims, replace(small, labels=small.labels[::-1].copy())))
    assert same(first, weights(victims, small))


def test_a_kept_model_is_read_and_not_trained_again(small: Task, tmp_path: Path) -> None:
    first = Victims(QUICK, tmp_path).of(small, seed=0, device=CPU)
    [file] = tmp_path.iterdir()
    written = file.stat().st_mtime_ns
    again = Victims(QUICK, tmp_path).of(small, seed=0, device=CPU)
    assert same(list(first.network.state_dict().values()), list(again.network.state_dict().values()))
    assert (again.seconds, again.network.training) == (first.seconds, False)
    assert file.stat().st_mtime_ns == written


def test_grey_images_are_taken_as_three_equal_channels(small: Task) -> None:
    grey = small.images[..., :1]
    pixels = Pixels.load(grey, measured_normalization(grey), CPU)
    assert pixels.image_shape == (16, 16, 3)
    assert len(set(pixels.normalization.mean)) == 1
    weights(Victims(QUICK), replace(small, images=grey, clean_images=None, clean_labels=None))


def test_normalised_training_images_have_mean_0_and_deviation_1(small: Task) -> None:
    pixels = Pixels.load(small.images, measured_normalization(small.images), CPU)
    [batch] = pixels.batches()
    assert batch.mean((0, 2, 3)).numpy() == pytest.approx(np.zeros(3), abs=1e-4)
    assert batch.std((0, 2, 3)).numpy() == pytest.approx(np.ones(3), abs=1e-3)


def test_settings_are_the_published_ones_for_the_size_of_the_images() -> None:
    small, large = NetworkSettings().victim(32), NetworkSettings().victim(64)
    assert (small.epochs, small.batch_size, small.decay) == (100, 128, "cosine")
    assert (large.epochs, large.batch_size, large.decay) == (200, 64, "plateau")
    assert (NetworkSettings().abl(32).epochs, NetworkSettings().abl(64).epochs) == (20, 40)


@pytest.mark.parametrize("wrong", [{"width": 0}, {"victim_epochs": 0}, {"batch_size": -1}, {"lr": 0.0}])
def test_settings_out_of_range_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        NetworkSettings(**wrong)


def linear(small: Task) -> tuple[nn.Module, Pixels, Tensor]:
    pixels = Pixels.load(small.images, measured_normalization(small.images), CPU)
    return nn.Sequential(nn.Flatten(), nn.Linear(768, 6)), pixels, torch.from_numpy(small.labels)


def test_the_rate_falls_to_nothing_along_a_cosine(small: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float] = []
    step = torch.optim.SGD.step
    monkeypatch.setattr(torch.optim.SGD, "step", lambda self: (rates.append(self.param_groups[0]["lr"]), step(self))[1])
    fitting = NetworkSettings(victim_epochs=4, batch_size=64, lr=0.01).victim(32)
    fit(*linear(small), fitting, seed=0)
    assert rates == pytest.approx([0.005 * (1 + np.cos(np.pi * epoch / 4)) for epoch in range(4)])


def test_a_loss_that_is_no_number_is_refused(small: Task) -> None:
    fitting = NetworkSettings(victim_epochs=3, batch_size=64).victim(32)
    with pytest.raises(ConfigError, match="no longer a number in epoch 1"):
        fit(*linear(small), fitting, seed=0, loss=lambda x, _: x.sum() * float("nan"))
