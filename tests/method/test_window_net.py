"""The network of stage 5, asked about one window or about all."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vbdguard.config import WindowDetectorConfig
from vbdguard.method.window_net import WindowNet

CONFIG = WindowDetectorConfig(filters=3, hidden=4)
SIDES, CHANNELS = st.integers(6, 16), st.sampled_from((1, 3))


def network(height: int, width: int, channels: int) -> WindowNet:
    net = WindowNet((height, width, channels), CONFIG, torch.Generator().manual_seed(0))
    return net.eval().requires_grad_(False)


@settings(max_examples=25, deadline=None)
@given(SIDES, SIDES, CHANNELS)
def test_it_takes_windows_of_every_size_from_6_pixels(height: int, width: int, channels: int) -> None:
    logits: Tensor = network(height, width, channels)(torch.zeros(5, channels, height, width), torch.zeros(5, 2))
    assert logits.shape == (5,)
    assert logits.isfinite().all()


@settings(max_examples=40, deadline=None)
@given(SIDES, SIDES, CHANNELS, st.integers(1, 5), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_all_windows_at_once_get_the_logits_of_each(
    height: int, width: int, channels: int, rows: int, columns: int, seed: int
) -> None:
    net, generator = network(height, width, channels), torch.Generator().manual_seed(seed)
    images = torch.randn(2, channels, height + rows - 1, width + columns - 1, generator=generator)
    scores = torch.randn(2, 2, rows, columns, generator=generator)
    found = net.everywhere(images.contiguous(memory_format=torch.channels_last), scores)
    assert found.shape == (2, rows, columns)
    for row in range(rows):
        for column in range(columns):
            window = images[:, :, row : row + height, column : column + width]
            torch.testing.assert_close(found[:, row, column], net(window, scores[:, :, row, column]))
