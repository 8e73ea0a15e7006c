from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from vbdguard.config import DetectorConfig
from vbdguard.method.detector import DetectorNet, GradientDetector, fit_detector
from vbdguard.method.ensemble import Ensemble
from vbdguard.method.samples import Samples, centred
from vbdguard.method.simple_model import SimpleModel
from vbdguard.method.trigger import TriggerCandidate

SMALL = DetectorConfig(filters=2, epochs=6, batch_size=16, pseudo_first=2, pseudo_last=4)


@pytest.fixture
def seen() -> Iterator[list[tuple[bool, int]]]:
    """What passes through detectors: (whether in training, how many inputs), in order."""
    passes: list[tuple[bool, int]] = []

    def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if isinstance(module, DetectorNet):
            passes.append((module.training, len(inputs[0])))

    handle = register_module_forward_pre_hook(note)
    yield passes
    handle.remove()


@pytest.fixture(scope="module")
def few() -> Samples:
    """100 samples of class 0, 30 of class 1."""
    images = torch.randint(0, 256, (130, 8, 8, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return Samples(images, (torch.arange(130) >= 100).long(), 2)


@pytest.fixture(scope="module")
def model(few: Samples) -> SimpleModel:
    model = SimpleModel(
        (3,),
        2,
        few.image_shape,
        pixel_mean=torch.full((3,), 128.0),
        pixel_std=torch.full((3,), 70.0),
        generator=torch.Generator().manual_seed(0),
    )
    model(centred(few.images))
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def patch() -> TriggerCandidate:
    mask = torch.zeros(8, 8, dtype=torch.bool)
    mask[5:, 5:] = True
    return TriggerCandidate(mask, 255.0 * mask.expand(3, 8, 8))


@pytest.fixture(scope="module")
def fitted(ensemble: Ensemble, planted: Any) -> GradientDetector:
    config = DetectorConfig(epochs=12, batch_size=32, pseudo_first=3, pseudo_last=6)
    return fit_detector(
        ensemble.models[0].model,
        planted.samples,
        planted.target,
        planted.trigger,
        config,
        generator=torch.Generator().manual_seed(0),
    )


def test_the_detector_tells_poisoned_from_clean_in_its_class(fitted: GradientDetector, planted: Any) -> None:
    members = planted.samples.members(planted.target)
    scores = fitted.scores(planted.samples.images[members])
    flagged, truth = scores > fitted.threshold, planted.is_poisoned[members]
    assert 0 <= float(scores.min()) <= float(scores.max()) <= 1
    assert fitted.train_accuracy > 0.9
    assert float(flagged[truth].float().mean()) > 0.95
    assert float(flagged[~truth].float().mean()) < 0.2


def test_it_scores_a_sample_alike_in_any_company(fitted: GradientDetector, planted: Any) -> None:
    images = planted.samples.images[:300]
    alone = torch.cat([fitted.scores(images[:1]), fitted.scores(images[1:5])])
    torch.testing.assert_close(fitted.scores(images)[:5], alone, rtol=0.02, atol=0.02)


def test_an_epoch_ends_with_the_others_and_from_the_pseudo_labels_on_with_the_class(
    seen: list[tuple[bool, int]], model: SimpleModel, few: Samples, patch: TriggerCandidate, generator: torch.Generator
) -> None:
    """100 others in batches of 16, each clean and patched; then 30 own samples in batches of 16 beside them."""
    fit_detector(model, few, 1, patch, SMALL, generator=generator)
    supervised = [(True, 32)] * 6 + [(True, 8)]
    relabel = [(False, 30)]
    joint = [(True, 48), (True, 46)]
    assert seen == [*supervised, *supervised, *relabel, *joint, *relabel, *joint, *relabel, *joint, *joint]


def test_without_pseudo_labels_every_epoch_is_whole(
    seen: list[tuple[bool, int]], model: SimpleModel, few: Samples, patch: TriggerCandidate, generator: torch.Generator
) -> None:
    fit_detector(model, few, 1, patch, replace(SMALL, epochs=2, pseudo_first=3), generator=generator)
    assert seen == 2 * [*([(True, 32)] * 6), (True, 8)]


def test_a_class_larger_than_the_others_ends_with_them(
    seen: list[tuple[bool, int]], model: SimpleModel, few: Samples, patch: TriggerCandidate, generator: torch.Generator
) -> None:
    config = replace(SMALL, epochs=2, pseudo_first=1, pseudo_last=1)
    fit_detector(model, few, 0, patch, config, generator=generator)
    assert seen == [(True, 32), (True, 28), (False, 100), (True, 48), (True, 44)]


def test_the_generator_alone_decides_the_detector(model: SimpleModel, few: Samples, patch: TriggerCandidate) -> None:
    scores = []
    for seed in (0, 0, 1):
        torch.manual_seed(len(scores))
        generator = torch.Generator().manual_seed(seed)
        detector = fit_detector(model, few, 1, patch, replace(SMALL, epochs=2), generator=generator)
        scores.append(detector.scores(few.images[100:]))
    assert torch.equal(scores[0], scores[1])
    assert not torch.equal(scores[0], scores[2])


def test_a_batch_in_parts_is_the_batch(
    model: SimpleModel, few: Samples, patch: TriggerCandidate, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(SMALL, dropout=0.0)
    detectors = []
    for at_once in (1_000, 5):
        monkeypatch.setattr("vbdguard.method.detector.at_once", lambda image_size, n=at_once: n)
        generator = torch.Generator().manual_seed(0)
        detectors.append(fit_detector(model, few, 1, patch, config, generator=generator))
    whole, parts = detectors
    assert parts.train_accuracy == pytest.approx(whole.train_accuracy, abs=0.01)
    # sums in another order, of gradients in bfloat16 where the processor has it
    for name, weight in whole.net.state_dict().items():
        tolerance = 0.02 * float(weight.abs().mean())
        torch.testing.assert_close(parts.net.state_dict()[name], weight, rtol=0.02, atol=tolerance)


@pytest.mark.parametrize("shape", [(8, 8, 3), (9, 12, 6), (7, 7, 1)])
def test_the_net_is_one_block_and_one_output(shape: tuple[int, int, int], generator: torch.Generator) -> None:
    net = DetectorNet(shape, 5, 0.5, generator).eval()
    x = torch.randn((4, shape[2], *shape[:2]), generator=generator)
    h = F.max_pool2d(F.conv2d(x, net.weight).relu(), 2)
    expected = F.linear(h.permute(0, 2, 3, 1).flatten(1), net.head_weight, net.head_bias)[:, 0]
    torch.testing.assert_close(net(x), expected)
    torch.testing.assert_close(net.logits(x), expected)


def test_dropout_drops_its_share_in_training_and_keeps_the_mean() -> None:
    net = DetectorNet((12, 12, 3), 8, 0.3, torch.Generator().manual_seed(0)).requires_grad_(False)
    x = torch.randn((1, 3, 12, 12), generator=torch.Generator().manual_seed(1))
    at_rest = float(net.logits(x)) - float(net.head_bias)
    assert net.training
    outcomes = net(x.expand(4000, -1, -1, -1)) - net.head_bias
    h = F.max_pool2d(F.conv2d(x, net.weight).relu(), 2).permute(0, 2, 3, 1).flatten(1)
    spread = float(((h * net.head_weight).square().sum() * 0.3 / 0.7).sqrt())
    assert float(outcomes.std()) == pytest.approx(spread, rel=0.1)
    # the mean of 4,000 draws, five standard errors wide
    assert float(outcomes.mean()) == pytest.approx(at_rest, abs=5 * spread / 4000**0.5)
