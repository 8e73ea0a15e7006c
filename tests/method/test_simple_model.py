"""The rewritten model against plain layers in double precision, in the order in which the paper draws them."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vbdguard.method.samples import centred
from vbdguard.method.simple_model import SimpleModel, patch_moments

K = 5
FILTERS = [(7,), (4, 6), (3, 4, 5)]
SIZES = [(16, 16), (15, 17), (16, 13), (13, 12)]
CLOSE: dict[str, Any] = {"rtol": 2e-4, "atol": 2e-5, "check_dtype": False}
"""float32 against float64."""


class Plain(nn.Module):
    """Normalisation, convolution, batch norm, ReLU, ... and a max pool at the very end of the last block."""

    def __init__(self, model: SimpleModel, filters: tuple[int, ...]) -> None:
        super().__init__()
        sizes = (3, *filters)
        self.register_buffer("mean", model.pixel_mean.view(1, -1, 1, 1))
        self.register_buffer("std", model.pixel_std.view(1, -1, 1, 1))
        self.convolutions = nn.ModuleList(nn.Conv2d(sizes[i], sizes[i + 1], 3, bias=False) for i in range(len(filters)))
        self.norms = nn.ModuleList(nn.BatchNorm2d(size) for size in filters)
        self.head = nn.Linear(model.head_weight.shape[1], K)
        with torch.no_grad():
            for convolution, weight in zip(self.convolutions, model.weights, strict=True):
                convolution.weight.copy_(weight)
            for norm, gain, shift in zip(self.norms, model.gains, model.shifts, strict=True):
                norm.weight.copy_(gain)
                norm.bias.copy_(shift)
            self.head.weight.copy_(model.head_weight)
            self.head.bias.copy_(model.head_bias)
        self.double()

    def forward(self, pixels: Tensor) -> Tensor:
        """Take pixels 0 to 255, (n, 3, H, W)."""
        x = (pixels.double() - self.mean) / self.std
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = norm(convolution(x)).relu()
        x = F.max_pool2d(x, 2)
        return self.head(x.permute(0, 2, 3, 1).flatten(1))

    def statistics(self) -> list[Tensor]:
        return [statistic for norm in self.norms for statistic in (norm.running_mean, norm.running_var)]


def noise(size: tuple[int, int], n: int = 12, *, low: int = 0, high: int = 256, grey: bool = False) -> Tensor:
    drawn = torch.randint(low, high, (n, *size, 1 if grey else 3), generator=torch.Generator().manual_seed(1))
    return drawn.expand(-1, -1, -1, 3).to(torch.uint8).contiguous()


def build(filters: tuple[int, ...], images: Tensor, **settings: Any) -> SimpleModel:
    pixels = images.float()
    model = SimpleModel(
        filters,
        K,
        tuple(images.shape[1:]),
        pixel_mean=pixels.mean((0, 1, 2)),
        pixel_std=pixels.std((0, 1, 2)).clamp_min(1),
        generator=torch.Generator().manual_seed(2),
        **settings,
    )
    with torch.no_grad():  # gains and shifts of 1 and 0 would hide a slip
        for gain, shift in zip(model.gains, model.shifts, strict=True):
            gain.uniform_(0.5, 1.5, generator=torch.Generator().manual_seed(3))
            shift.uniform_(-0.5, 0.5, generator=torch.Generator().manual_seed(4))
    return model


def statistics(model: SimpleModel) -> list[Tensor]:
    blocks = range(len(model.weights))
    return [model.get_buffer(f"running_{name}{i}") for i in blocks for name in ("mean", "var")]


def parameters(model: SimpleModel) -> list[Tensor]:
    return [*model.weights, *model.gains, *model.shifts, model.head_weight, model.head_bias]


def plain_parameters(plain: Plain) -> list[Tensor]:
    return [
        *(convolution.weight for convolution in plain.convolutions),
        *(norm.weight for norm in plain.norms),
        *(norm.bias for norm in plain.norms),
        plain.head.weight,
        plain.head.bias,
    ]


def pixels_of(images: Tensor) -> Tensor:
    return images.permute(0, 3, 1, 2).double()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("filters", FILTERS)
def test_logits_and_gradients_in_training_are_those_of_plain_layers(
    filters: tuple[int, ...], size: tuple[int, int]
) -> None:
    images = noise(size)
    model = build(filters, images)
    plain = Plain(model, filters)
    y = torch.arange(len(images)) % K
    logits, expected = model(centred(images)), plain(pixels_of(images))
    torch.testing.assert_close(logits, expected, **CLOSE)
    F.cross_entropy(logits, y).backward()
    F.cross_entropy(expected, y).backward()
    for parameter, other in zip(parameters(model), plain_parameters(plain), strict=True):
        torch.testing.assert_close(parameter.grad, other.grad, **CLOSE)


@pytest.mark.parametrize("filters", FILTERS)
def test_weights_statistics_and_evaluation_stay_together_over_several_steps(filters: tuple[int, ...]) -> None:
    images = noise((14, 14), 48)
    model = build(filters, images)
    plain = Plain(model, filters)
    y = torch.arange(len(images)) % K
    settings = {"lr": 0.01, "momentum": 0.9, "weight_decay": 5e-4}
    optimizers = torch.optim.SGD(model.parameters(), **settings), torch.optim.SGD(plain.parameters(), **settings)
    for batch in torch.arange(len(images)).split(12):
        outputs = model(centred(images[batch])), plain(pixels_of(images[batch]))
        for optimizer, logits in zip(optimizers, outputs, strict=True):
            optimizer.zero_grad()
            F.cross_entropy(logits, y[batch]).backward()
            optimizer.step()
    for mine, other in zip(parameters(model), plain_parameters(plain), strict=True):
        torch.testing.assert_close(mine, other, **CLOSE)
    for mine, other in zip(statistics(model), plain.statistics(), strict=True):
        torch.testing.assert_close(mine, other, **CLOSE)
    model.eval()
    plain.eval()
    torch.testing.assert_close(model(centred(images)), plain(pixels_of(images)), **CLOSE)


@pytest.mark.parametrize(
    "look",
    [
        {"grey": True},
        {"low": 120, "high": 137},
        {"low": 0, "high": 12, "grey": True},
        {"low": 250, "high": 256},
    ],
    ids=["grey", "flat", "dark-grey", "glaring"],
)
def test_flat_grey_dark_and_bright_images_do_not_break_the_folded_statistics(look: dict[str, Any]) -> None:
    images = noise((16, 16), 24, **look)
    model = build((8,), images)
    plain = Plain(model, (8,))
    # one pass over pixels that are far from the centre costs float32 some digits
    torch.testing.assert_close(
        model(centred(images)), plain(pixels_of(images)), rtol=5e-3, atol=5e-3, check_dtype=False
    )
    for mine, other in zip(statistics(model), plain.statistics(), strict=True):
        torch.testing.assert_close(mine, other, rtol=5e-3, atol=1e-3, check_dtype=False)


def test_images_of_one_colour_give_finite_logits_and_gradients() -> None:
    images = torch.full((6, 12, 12, 3), 77, dtype=torch.uint8)
    model = build((6,), images)
    logits = model(centred(images))
    F.cross_entropy(logits, torch.arange(6) % K).backward()
    assert logits.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("training", [True, False])
def test_bfloat16_is_roughly_float32(training: bool) -> None:
    images = noise((16, 16), 32)
    exact, coarse = build((8, 8), images), build((8, 8), images, dtype=torch.bfloat16)
    x = centred(images)
    for model in (exact, coarse):
        model(x)
        model.train(training).requires_grad_(False)
    logits, rough = exact(x), coarse(x)
    assert rough.dtype == torch.float32
    assert not torch.equal(logits, rough)
    # eight bits of mantissa through three layers: a few hundredths of the logits' own spread
    assert float((logits - rough).abs().max()) < 0.1 * float(logits.std())


@pytest.mark.parametrize("size", SIZES)
def test_patch_moments_are_those_of_unfolded_patches(size: tuple[int, int]) -> None:
    x = centred(noise(size, 5))
    moments = patch_moments(x)
    rows = F.unfold(x.double(), 3).permute(0, 2, 1).reshape(-1, 27)
    assert moments.count == len(rows) == 5 * (size[0] - 2) * (size[1] - 2)
    torch.testing.assert_close(moments.mean, rows.mean(0), rtol=1e-5, atol=1e-4, check_dtype=False)
    torch.testing.assert_close(moments.covariance, rows.T.cov(correction=0), rtol=1e-5, atol=0.05, check_dtype=False)


def test_models_may_share_the_moments_of_a_batch() -> None:
    images = noise((16, 16))
    model, other = build((6,), images), build((6,), images)
    x = centred(images)
    assert torch.equal(model(x), other(x, patch_moments(x)))


def test_weights_start_as_pytorch_draws_its_layers() -> None:
    images = noise((32, 32), 2)
    model = SimpleModel(
        (64, 16),
        10,
        (32, 32, 3),
        pixel_mean=images.float().mean((0, 1, 2)),
        pixel_std=torch.ones(3),
        generator=torch.Generator().manual_seed(0),
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [nn.Conv2d(3, 64, 3, bias=False), nn.Conv2d(64, 16, 3, bias=False), nn.Linear(16 * 14 * 14, 10)]
    model.requires_grad_(False)
    for weight, layer in zip([*model.weights, model.head_weight], layers, strict=True):
        bound = 1 / math.sqrt(layer.weight[0].numel())
        assert weight.numel() == layer.weight.numel()
        # of a uniform draw: all inside, the largest near the bound, standard deviation bound / sqrt(3)
        assert 0.99 * bound < float(weight.abs().max()) <= bound
        assert float(weight.std()) == pytest.approx(bound / math.sqrt(3), rel=0.05)
        assert float(layer.weight.detach().std()) == pytest.approx(bound / math.sqrt(3), rel=0.05)
    assert float(model.head_bias.abs().max()) <= 1 / math.sqrt(16 * 14 * 14)
