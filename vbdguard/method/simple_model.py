"""The small convolutional classifier that overfits a trigger (paper, Figure 1).

A block is a 3 x 3 convolution without padding or bias, batch normalisation and ReLU; the last block
ends with a 2 x 2 max pool, and one linear layer follows (settings of the published experiments).

Two rewritings that change no result make it fast. ReLU and max pool commute, so the pool comes
first and the ReLU sees a quarter of the values. And the statistics that the first batch
normalisation needs follow from the mean and covariance of the 3 x 3 input patches, because the
convolution is linear: the normalisation then folds into the convolution's weights, and three models
on one batch share the patch statistics. `tests/method/test_simple_model.py` holds both against
plain PyTorch layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from vbdguard.method.net import NormalisedConvolutions
from vbdguard.method.samples import PIXEL_CENTRE

_EPS = 1e-5
_MOMENTUM = 0.1


@dataclass(frozen=True, slots=True)
class PatchMoments:
    """Mean (D,) and covariance (D, D) of a batch's 3 x 3 patches, D = 9 C, in centred pixels."""

    mean: Tensor
    covariance: Tensor
    count: int


def patch_moments(x: Tensor) -> PatchMoments:
    """Return mean and covariance of all 3 x 3 patches of centred pixels (n, C, H, W).

    The patch order is that of a convolution weight (C, 3, 3) laid flat.
    """
    # Each 4 x 4 patch holds four 3 x 3 ones, so every second position is enough where the sides are even.
    side = 4 if x.shape[2] % 2 == x.shape[3] % 2 == 0 else 3
    patches = _patches(x, side, stride=side - 2)
    # One pass over uncentred patches: pixels are whole numbers up to 128, far from float32's limits.
    mean, square = patches.mean(0), patches.T @ patches / len(patches)
    inner = [_inner_patch(side, x.shape[1], top, left, x.device) for top in range(side - 2) for left in range(side - 2)]
    mean_inner = torch.stack([mean[i] for i in inner]).mean(0)
    square_inner = torch.stack([square[i[:, None], i] for i in inner]).mean(0)
    return PatchMoments(mean_inner, square_inner - mean_inner.outer(mean_inner), len(patches) * len(inner))


def _patches(x: Tensor, side: int, stride: int) -> Tensor:
    """Return the square patches of x (n, C, H, W) as rows (p, side * side * C) in order row, column, channel."""
    n, channels, height, width = x.shape
    rows = x.permute(0, 2, 3, 1).reshape(n, height, width * channels)
    # unfold puts each new axis last: (n, rows, columns, side, side * C)
    return (
        rows.unfold(1, side, stride).unfold(2, side * channels, stride * channels).reshape(-1, side * side * channels)
    )


def _inner_patch(side: int, channels: int, top: int, left: int, device: torch.device) -> Tensor:
    """Return where a 3 x 3 patch stands in a `_patches` row, in order (C, 3, 3)."""
    index = torch.arange(side * side * channels, device=device).view(side, side, channels)
    return index[top : top + 3, left : left + 3].permute(2, 0, 1).flatten()


class SimpleModel(NormalisedConvolutions):
    """A stack of blocks and a linear layer on centred pixels.

    Args:
        filters: filters of each block.
        n_classes: K, the number of logits.
        image_shape: height, width and channels.
        pixel_mean: float (C,), mean of the training pixels, 0 to 255.
        pixel_std: float (C,), their standard deviation, above 0.
        generator: CPU generator for the initial weights (PyTorch's default distributions).
        dtype: type of activations; weights, statistics and logits stay float32.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self,
        filters: Sequence[int],
        n_classes: int,
        image_shape: tuple[int, int, int],
        *,
        pixel_mean: Tensor,
        pixel_std: Tensor,
        generator: torch.Generator,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        height, width, channels = image_shape
        lost = 2 * len(filters)
        features = filters[-1] * ((height - lost) // 2) * ((width - lost) // 2)
        super().__init__(filters, channels, features, n_classes, generator)
        self.dtype = dtype
        self.register_buffer("pixel_mean", pixel_mean.clone())
        self.register_buffer("pixel_std", pixel_std.clone())

    def forward(self, x: Tensor, moments: PatchMoments | None = None) -> Tensor:
        """Return logits (n, K) for centred pixels (n, C, H, W).

        In training mode the batch's own statistics normalise; `moments` may be given where several
        models share them.
        """
        weight, bias = self._folded_first(x, moments)
        last = len(self.weights) - 1
        x = self._convolve(x.to(self.dtype), weight, bias)
        for i in range(1, last + 1):
            x = self._block(i, x.relu())
        x = F.max_pool2d(x, 2).relu()
        head_weight, head_bias = self.head_weight.to(self.dtype), self.head_bias.to(self.dtype)
        # Laid flat in memory order (rows, columns, channels): the other order costs a slow copy each way.
        return F.linear(x.permute(0, 2, 3, 1).flatten(1), head_weight, head_bias).float()

    def _convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        weight = weight.to(self.dtype, memory_format=torch.channels_last)
        return F.conv2d(x, weight, None if bias is None else bias.to(self.dtype))

    def _folded_first(self, x: Tensor, moments: PatchMoments | None) -> tuple[Tensor, Tensor]:
        """Return weight and bias of the first convolution with input and batch normalisation folded in."""
        weight = self.weights[0] / self.pixel_std.view(1, -1, 1, 1)
        offset = ((PIXEL_CENTRE - self.pixel_mean) / self.pixel_std).view(1, -1, 1, 1)
        constant = (self.weights[0] * offset).sum((1, 2, 3))
        if self.training:
            moments = moments or patch_moments(x)
            flat = weight.flatten(1)
            mean = flat @ moments.mean + constant
            var = ((flat @ moments.covariance) * flat).sum(1).clamp_min(0)
            self._track(0, mean, var, moments.count)
        else:
            mean, var = self.statistics(0)
        scale = self.gains[0] * (var + _EPS).rsqrt()
        return weight * scale.view(-1, 1, 1, 1), self.shifts[0] + (constant - mean) * scale

    def _block(self, i: int, x: Tensor) -> Tensor:
        mean, var = self.statistics(i)
        if self.training:
            y = self._convolve(x, self.weights[i])
            return F.batch_norm(y, mean, var, self.gains[i], self.shifts[i], True, _MOMENTUM, _EPS)
        scale = self.gains[i] * (var + _EPS).rsqrt()
        return self._convolve(x, self.weights[i] * scale.view(-1, 1, 1, 1), self.shifts[i] - mean * scale)

    @torch.no_grad()
    def _track(self, i: int, mean: Tensor, var: Tensor, count: int) -> None:
        """Move the running statistics as `torch.nn.BatchNorm2d` does (unbiased variance)."""
        running_mean, running_var = self.statistics(i)
        running_mean.lerp_(mean, _MOMENTUM)
        running_var.lerp_(var * (count / max(1, count - 1)), _MOMENTUM)
