"""The small network of stage 5 of preset `default`, which tells stamped windows from others.

It can be asked about one window of each image, or about all windows at once: neighbouring windows share most of what
their convolutions compute.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vbdguard.config import WindowDetectorConfig
from vbdguard.method.net import uniform_parameter
from vbdguard.method.samples import centred

_PIXEL_SCALE = 64.0


def network_pixels(images: Tensor) -> Tensor:
    """Return uint8 (n, H, W, C) images as the network sees them, float32 (n, C, H, W), channels last in memory."""
    return centred(images).div_(_PIXEL_SCALE)


class WindowNet(nn.Module):
    """Two 3 x 3 convolutions, a 2 x 2 max pool, one hidden layer that also sees the matched filter's score.

    Args:
        input_shape: height, width (5 at least) and channels of the window.
        config: filters and hidden units.
        generator: CPU generator of weights.
    """

    def __init__(
        self, input_shape: tuple[int, int, int], config: WindowDetectorConfig, generator: torch.Generator
    ) -> None:
        super().__init__()
        height, width, channels = input_shape
        filters, hidden = config.filters, config.hidden
        self._convolved = height - 4, width - 4
        features = filters * -(-(height - 4) // 2) * -(-(width - 4) // 2) + 2
        self.first = uniform_parameter((filters, channels, 3, 3), 9 * channels, generator)
        self.first_bias = uniform_parameter((filters,), 9 * channels, generator)
        self.second = uniform_parameter((filters, filters, 3, 3), 9 * filters, generator)
        self.second_bias = uniform_parameter((filters,), 9 * filters, generator)
        self.hidden = uniform_parameter((hidden, features), features, generator)
        self.hidden_bias = uniform_parameter((hidden,), features, generator)
        self.head = uniform_parameter((1, hidden), hidden, generator)
        self.head_bias = uniform_parameter((1,), hidden, generator)

    def forward(self, x: Tensor, scores: Tensor) -> Tensor:
        """Return one logit per window, (n,), for float (n, C, h, w) and the filter's (n, 2); above 0 means stamped."""
        x = F.conv2d(x, self.first, self.first_bias).relu()
        x = F.max_pool2d(F.conv2d(x, self.second, self.second_bias), 2, ceil_mode=True).relu().flatten(1)
        x = F.linear(torch.cat([x, scores], dim=1), self.hidden, self.hidden_bias).relu()
        return F.linear(x, self.head, self.head_bias).squeeze(1)

    def everywhere(self, x: Tensor, scores: Tensor) -> Tensor:
        """Return one logit for the window at each of R x S places, float32 (n, R, S), to rounding those of `forward`.

        Args:
            x: float32 (n, C, R + h - 1, S + w - 1), channels last in memory: images, with what lies around them.
            scores: float32 (n, 2, R, S), what the filter says of each window.
        """
        rows, columns = scores.shape[2:]
        for weight, bias in ((self.first, self.first_bias), (self.second, self.second_bias)):
            x = F.conv2d(x, weight.contiguous(memory_format=torch.channels_last), bias).relu_()
        by_cell = self.hidden[:, :-2].unflatten(1, (x.shape[1], *(-(-side // 2) for side in self._convolved)))
        hidden = F.conv2d(scores, self.hidden[:, -2:, None, None], self.hidden_bias)
        # Cells of the pool lie two pixels apart in a window, and the windows one: the pool is taken everywhere, and the
        # hidden layer looks at every other place of it. Where the side is odd the last cells hold one row or column.
        for high, pooled_rows in _cells(x, 2, self._convolved[0], rows):
            for wide, pooled in _cells(pooled_rows, 3, self._convolved[1], columns):
                weight = by_cell[:, :, high, wide].contiguous(memory_format=torch.channels_last)
                hidden += F.conv2d(pooled, weight, dilation=2)
        return F.conv2d(hidden.relu_(), self.head[:, :, None, None], self.head_bias)[:, 0]


def _cells(x: Tensor, axis: int, side: int, places: int) -> Iterator[tuple[slice, Tensor]]:
    """Yield which cells of a window's pool along an axis hold two lines, then one, and their maxima at all places.

    Args:
        x: (n, F, H, W), what is pooled.
        axis: of x.
        side: of what each window pools.
        places: where windows begin along the axis.
    """
    halves = side // 2
    below, here = x.narrow(axis, 1, x.shape[axis] - 1), x.narrow(axis, 0, x.shape[axis] - 1)
    yield slice(0, halves), torch.maximum(below, here).narrow(axis, 0, 2 * (halves - 1) + places)
    if side % 2:
        yield slice(halves, halves + 1), x.narrow(axis, 2 * halves, places)
