"""The yardstick: its arithmetic, its networks, and that it measures what it says."""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, TensorDataset

from benchmarks import yardstick
from benchmarks.cells import Cell
from benchmarks.data import load_data
from benchmarks.yardstick import Course, YardstickTimes, measure
from benchmarks.yardstick_data import Pairs, stratified_split, to_normalised_tensor
from benchmarks.yardstick_epochs import PlainDetector, PlainEnsemble, Stretch, timed
from benchmarks.yardstick_models import ENSEMBLE, detector_network, margin_gradient, simple_model
from vbdguard.attacks.poison import blend
from vbdguard.attacks.triggers import builtin_patch, place


def test_a_run_is_twenty_epochs_of_stage_1_and_twenty_of_each_detector() -> None:
    times = YardstickTimes(train=50.0, evaluate=18.0, detector=17.0, detectors=1, short_share=1.0)
    assert times.stage1_epoch == 68.0
    assert times.total == 20 * 68 + 20 * 17 == 1700
    ten = YardstickTimes(train=50.0, evaluate=18.0, detector=17.0, detectors=10, short_share=1.0)
    assert ten.total == 20 * 68 + 200 * 17
    clean = YardstickTimes(train=50.0, evaluate=18.0, detector=0.0, detectors=0, short_share=1.0)
    assert clean.total == 20 * 68


def test_short_epochs_shorten_fourteen_of_the_twenty() -> None:
    times = YardstickTimes(train=3.0, evaluate=1.0, detector=10.0, detectors=2, short_share=0.25)
    assert times.total_with_short_epochs == 20 * 4 + 2 * 10 * (6 + 14 * 0.25)


def test_an_epoch_is_extrapolated_by_samples() -> None:
    assert Stretch(seconds=2.0, samples=512, of=40_000).epoch_seconds == 2 / 512 * 40_000


@pytest.mark.parametrize(("batches", "seen", "counted"), [(None, 10, 95), (3, 5, 30), (8, 10, 75), (9, 10, 95)])
def test_a_part_of_a_loop_is_timed_behind_its_first_batches(batches: int | None, seen: int, counted: int) -> None:
    steps: list[int] = []

    def step(batch: list[torch.Tensor]) -> int:
        steps.append(len(batch[0]))
        return len(batch[0])

    stretch = timed(DataLoader(TensorDataset(torch.zeros(95)), batch_size=10), step, batches=batches)
    assert (len(steps), stretch.samples, stretch.of) == (seen, counted, 95)
    assert stretch.seconds > 0


def test_the_models_have_the_published_shapes() -> None:
    sizes = [sum(weight.numel() for weight in simple_model(filters, 10, (32, 32)).parameters()) for filters in ENSEMBLE]
    assert sizes == [
        64 * 27 + 2 * 64 + (64 * 15 * 15 + 1) * 10,
        10 * 27 + 2 * 10 + 10 * 90 + 2 * 10 + (10 * 14 * 14 + 1) * 10,
        16 * 27 + 2 * 16 + 16 * 144 + 2 * 16 + (16 * 14 * 14 + 1) * 10,
    ]
    detector = detector_network((32, 32))
    assert sum(weight.numel() for weight in detector.parameters()) == 32 * 27 + 32 * 15 * 15 + 1
    scores = detector(torch.randn(4, 3, 32, 32))
    assert scores.shape == (4, 1)
    assert ((scores > 0) & (scores < 1)).all()


def test_the_margin_gradient_is_the_slope_of_the_margin() -> None:
    torch.manual_seed(0)
    model = simple_model((4,), 5, (12, 12)).double().eval()
    x = torch.randn(2, 3, 12, 12, dtype=torch.float64)

    def margin(at: torch.Tensor) -> torch.Tensor:
        logits = model(at)
        return logits[:, 2] - logits[:, [0, 1, 3, 4]].amax(1)

    gradient = margin_gradient(model, x, 2)
    step = torch.zeros_like(x)
    step[:, 1, 4, 5] = 1e-6
    slope = (margin(x + step) - margin(x - step)) / 2e-6
    torch.testing.assert_close(gradient[:, 1, 4, 5], slope, rtol=1e-4, atol=1e-7)


def test_each_image_comes_clean_and_patched_with_a_factor_of_its_own() -> None:
    trigger = place(builtin_patch("color_grid"), (16, 16))
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)

    def as_tensor(image: Any) -> torch.Tensor:
        return torch.from_numpy(np.array(image))

    pairs = Pairs([Image.fromarray(pixels)], trigger, as_tensor, seed=3)
    expected = np.random.default_rng(3)
    for _ in range(2):
        clean, patched = pairs[0]
        assert (clean.numpy() == pixels).all()
        alpha = expected.uniform(0.2, 1.0)
        # The plain way does without the slack that our own blending adds against rounding.
        difference = patched.numpy().astype(int) - blend(pixels[None], trigger, alpha)[0]
        assert abs(difference).max() <= 1
        assert (difference[~trigger.mask] == 0).all()


def test_images_are_normalised_with_their_own_statistics() -> None:
    images = np.random.default_rng(0).integers(0, 200, (50, 16, 16, 3), dtype=np.uint8)
    transform = to_normalised_tensor(images)
    x = torch.stack([transform(Image.fromarray(image)) for image in images])
    torch.testing.assert_close(x.mean((0, 2, 3)), torch.zeros(3), rtol=0, atol=1e-4)
    torch.testing.assert_close(x.std((0, 2, 3)), torch.ones(3), rtol=0, atol=1e-3)


def test_four_fifths_of_each_class_train() -> None:
    labels = np.repeat(np.arange(3), (10, 20, 50))
    train, detection = stratified_split(labels, 0.8, seed=0)
    assert np.bincount(labels[train]).tolist() == [8, 16, 40]
    assert sorted([*train, *detection]) == list(range(80))


def test_the_networks_learn() -> None:
    torch.manual_seed(0)
    x = torch.randn(64, 3, 12, 12)
    labels = torch.arange(64) % 2
    x[labels == 1, :, :3, :3] += 3
    ensemble = PlainEnsemble([simple_model((8,), 2, (12, 12))], torch.device("cpu"))
    loader = DataLoader(TensorDataset(x, labels), batch_size=16)
    for _ in range(8):
        ensemble.train(loader, batches=None)
    ensemble.evaluate(loader, batches=None)
    model = ensemble.models[0]
    assert (model(x).argmax(1) == labels).float().mean() > 0.95

    detector = PlainDetector(model, 1, (12, 12), torch.device("cpu"))
    before = [weight.clone() for weight in detector.network.parameters()]
    frozen = [weight.clone() for weight in model.parameters()]
    detector.train(DataLoader(TensorDataset(x[labels == 0], x[labels == 1]), batch_size=16), batches=None)
    assert all((a != b).any() for a, b in zip(before, detector.network.parameters(), strict=True))
    assert all((a == b).all() for a, b in zip(frozen, model.parameters(), strict=True))


@pytest.mark.parametrize(("cell", "detectors"), [("a2o/white_square", 1), ("a2a/white_square/1/0.6", 10), ("clean", 0)])
def test_each_poisoned_class_has_a_detector(cell: str, detectors: int) -> None:
    data = load_data("demo", 150)
    poisoned = Cell.parse(cell).poison(data.images, data.labels, {}, 0)
    times = measure(poisoned, Course(epochs=1))
    assert times.detectors == detectors
    assert min(times.train, times.evaluate) > 0
    assert (times.detector > 0) == (detectors > 0)
    assert times.total >= times.total_with_short_epochs > 20 * times.train


def test_the_command_prints_its_record_last(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--data", "demo", "--limit", "200", "--epochs", "1", "--batches", "1", "--threads", "1"]
    monkeypatch.setattr(sys, "argv", ["yardstick", *arguments])
    yardstick.main()
    record = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (record["data"], record["limit"], record["method"]) == ("demo", 200, "yardstick")
    seconds = record["seconds"]
    expected = 20 * (seconds["stage1_epoch"] + seconds["detectors"] * seconds["detector_epoch"])
    assert seconds["total"] == pytest.approx(expected, abs=0.1)


@pytest.mark.parametrize("wrong", [["--batches", "0"], ["--cell", "a2o/no_such"], ["--data", "nowhere"]])
def test_what_cannot_be_measured_is_told_of(
    wrong: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["yardstick", "--data", "demo", "--limit", "100", *wrong])
    with pytest.raises(SystemExit, match="2"):
        yardstick.main()
    assert "error:" in capsys.readouterr().err
