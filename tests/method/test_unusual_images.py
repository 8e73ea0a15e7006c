"""Images that are no square photographs: constant backgrounds, long strips, classes of one sample."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from vbdguard.config import DirectMethodConfig
from vbdguard.method.device import usual_torch
from vbdguard.method.level import image_levels
from vbdguard.method.pipeline import Detection, detect
from vbdguard.method.population import Population
from vbdguard.method.samples import Samples
from vbdguard.method.window_net import WindowNet

DIGITS, PER_DIGIT = 5, 250


def digit(number: int, rng: np.random.Generator) -> Image.Image:
    """Return a grey digit on black, 28 x 28, with a black border, as MNIST has them."""
    image = Image.new("L", (28, 28))
    place = 8 + int(rng.integers(-2, 3)), 2 + int(rng.integers(-1, 2))
    ImageDraw.Draw(image).text(
        place, str(number), fill=int(rng.integers(150, 256)), font=ImageFont.load_default(size=20)
    )
    turned = image.rotate(float(rng.normal() * 12), resample=Image.Resampling.BILINEAR).crop((3, 3, 25, 25))
    framed = Image.new("L", (28, 28))
    framed.paste(turned, (3, 3))
    return framed


@pytest.fixture(scope="module")
def digits() -> Samples:
    rng = np.random.default_rng(0)
    drawn = [np.asarray(digit(number, rng)) for number in range(DIGITS) for _ in range(PER_DIGIT)]
    images = torch.from_numpy(np.stack(drawn))[..., None].repeat(1, 1, 1, 3)
    return Samples(images, torch.arange(DIGITS).repeat_interleave(PER_DIGIT), DIGITS)


def test_a_patch_on_a_constant_background_is_found_with_its_pixels(digits: Samples, method: DirectMethodConfig) -> None:
    images, labels = digits.images.clone(), digits.labels.clone()
    carriers = (labels != 0).nonzero().squeeze(1)[::10]
    images[carriers, 24:27, 24:27] = 255
    labels[carriers] = 0
    found = detect(Samples(images, labels, DIGITS), method, seed=0)
    assert accused(found) == [0]
    truth = torch.zeros(len(labels), dtype=torch.bool)
    truth[carriers] = True
    assert int((found.is_flagged & truth).sum()) >= 0.95 * len(carriers)
    assert int((found.is_flagged & ~truth).sum()) <= 0.05 * len(carriers)
    trigger = found.classes[0].trigger
    assert trigger is not None
    assert trigger.bbox == (24, 24, 3, 3)
    assert found.classes[0].blend_factor == pytest.approx(1, abs=0.1)


def test_clean_digits_raise_no_alarm(digits: Samples, method: DirectMethodConfig) -> None:
    found = detect(digits, method, seed=0)
    assert accused(found) == []
    assert not found.is_flagged.any()


def accused(found: Detection) -> list[int]:
    return [finding.label for finding in found.classes if finding.is_poisoned]


def textured(n: int, height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    rough = torch.rand(n, 3, height // 4 + 1, width // 4 + 1, generator=generator)
    smooth = torch.nn.functional.interpolate(rough, size=(height, width), mode="bilinear")
    return (smooth * 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


@pytest.mark.parametrize("size", [(24, 96), (96, 16), (8, 32), (48, 96), (40, 40)])
def test_strips_and_odd_sizes_are_scanned(size: tuple[int, int], method: DirectMethodConfig) -> None:
    samples = Samples(textured(160, *size), torch.arange(160) % 2, 2)
    assert accused(detect(samples, method, seed=0)) == []


@pytest.mark.parametrize("size", [(72, 96), (64, 96), (24, 96), (40, 40), (64, 64), (32, 32)])
def test_coarse_images_suit_the_window_network(size: tuple[int, int], method: DirectMethodConfig) -> None:
    samples = Samples(textured(8, *size), torch.arange(8) % 2, 2)
    level = image_levels(Population.of(samples), samples, method)[-1]
    assert level.is_coarse
    height, width = (min(level.side, length) for length in level.samples.image_shape[:2])
    net = WindowNet((height, width, 3), method.detector, torch.Generator().manual_seed(0))
    assert net(torch.rand(2, 3, height, width), torch.rand(2, 2)).shape == (2,)


def test_a_class_of_one_sample_is_no_obstacle(method: DirectMethodConfig) -> None:
    samples = Samples(textured(61, 16, 16), torch.tensor([0, 1, 2] * 20 + [3]), 4)
    assert accused(detect(samples, method, seed=0)) == []


def test_what_a_training_script_has_set_changes_nothing(digits: Samples, method: DirectMethodConfig) -> None:
    few = replace(digits, images=digits.images[::4], labels=digits.labels[::4])
    expected = detect(few, method, seed=0)
    torch.set_default_dtype(torch.float64)
    torch.set_float32_matmul_precision("medium")
    torch.use_deterministic_algorithms(True)
    try:
        with torch.inference_mode(), torch.device("meta"), torch.autocast("cpu", dtype=torch.bfloat16):
            found = detect(few, method, seed=0)
            assert torch.is_autocast_enabled("cpu")
        assert torch.get_default_dtype() == torch.float64
        assert torch.get_float32_matmul_precision() == "medium"
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_float32_matmul_precision("highest")
        torch.use_deterministic_algorithms(False)
    assert torch.equal(found.scores, expected.scores)
    with torch.inference_mode(), usual_torch():
        assert torch.ones(1, requires_grad=True).requires_grad
