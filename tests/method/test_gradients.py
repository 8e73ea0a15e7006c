from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vbdguard.method.gradients import margin, margin_gradients
from vbdguard.method.samples import centred
from vbdguard.method.simple_model import SimpleModel

MEAN, STD = torch.tensor([120.0, 130.0, 90.0]), torch.tensor([60.0, 70.0, 40.0])


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randint(0, 256, (6, 11, 12, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


@pytest.fixture(scope="module")
def model(images: Tensor) -> SimpleModel:
    model = SimpleModel(
        (5, 4), 4, (11, 12, 3), pixel_mean=MEAN, pixel_std=STD, generator=torch.Generator().manual_seed(1)
    )
    for _ in range(30):
        model(centred(images))
    return model.eval().requires_grad_(False)


def plain_margin(model: SimpleModel, z: Tensor, label: int) -> Tensor:
    """The margin of one normalised image (3, H, W), by plain functions in double precision."""
    x = z[None]
    for i, weight in enumerate(model.weights):
        x = F.conv2d(x, weight.double())
        mean, var = (model.get_buffer(f"running_{name}{i}").double() for name in ("mean", "var"))
        x = F.batch_norm(x, mean, var, model.gains[i].double(), model.shifts[i].double(), False, 0.1, 1e-5).relu()
    features = F.max_pool2d(x, 2).permute(0, 2, 3, 1).flatten(1)
    logits = (features @ model.head_weight.double().T + model.head_bias.double())[0]
    others = torch.cat([logits[:label], logits[label + 1 :]])
    return logits[label] - others.max()


def normalised(images: Tensor) -> Tensor:
    return ((images.double() - MEAN) / STD).permute(0, 3, 1, 2)


def test_margin_is_the_logit_less_the_largest_other() -> None:
    logits = np.random.default_rng(0).normal(size=(40, 5)).astype(np.float32)
    for label in range(5):
        expected = [row[label] - max(row[k] for k in range(5) if k != label) for row in logits]
        np.testing.assert_allclose(margin(torch.from_numpy(logits), label), expected, rtol=1e-6)


def test_margin_leaves_the_logits_alone() -> None:
    logits = torch.tensor([[1.0, 2.0, 3.0]])
    assert margin(logits, 2).tolist() == [1.0]
    assert logits.tolist() == [[1.0, 2.0, 3.0]]


@pytest.mark.parametrize("label", [0, 3])
def test_gradients_are_those_of_plain_layers_per_unit_of_normalised_input(
    model: SimpleModel, images: Tensor, label: int
) -> None:
    per_sample = torch.func.vmap(torch.func.grad(lambda z: plain_margin(model, z, label)))
    expected = per_sample(normalised(images))
    gradients = margin_gradients(model, centred(images), label)
    torch.testing.assert_close(gradients, expected, rtol=1e-4, atol=1e-6, check_dtype=False)


def test_gradients_foretell_what_a_small_change_does(model: SimpleModel, images: Tensor) -> None:
    gradient = margin_gradients(model, centred(images), 1)[2]
    z, step = normalised(images)[2], 1e-6
    places = [(0, 5, 5), (1, 3, 8), (2, 9, 2)]
    assert any(abs(float(gradient[place])) > 1e-3 for place in places)
    for place in places:
        up, down = z.clone(), z.clone()
        up[place] += step
        down[place] -= step
        slope = (plain_margin(model, up, 1) - plain_margin(model, down, 1)) / (2 * step)
        assert float(gradient[place]) == pytest.approx(float(slope), rel=1e-3, abs=1e-5)


def test_a_sample_has_the_same_gradient_in_any_company(model: SimpleModel, images: Tensor) -> None:
    together = margin_gradients(model, centred(images), 2)
    alone = torch.cat([margin_gradients(model, centred(image[None]), 2) for image in images])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-6)


def test_gradients_are_taken_inside_no_grad_too_and_ask_none_of_the_input(model: SimpleModel, images: Tensor) -> None:
    x = centred(images)
    with torch.no_grad():
        gradients = margin_gradients(model, x, 0)
    assert gradients.abs().sum() > 0
    assert not x.requires_grad
    assert not gradients.requires_grad
