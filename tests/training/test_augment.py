from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from vbdguard.training.augment import crop_and_flip


def augmented(images: Tensor, seed: int = 0) -> Tensor:
    return crop_and_flip(images, torch.Generator().manual_seed(seed))


def test_each_image_is_a_shifted_and_perhaps_mirrored_copy() -> None:
    images = torch.randint(1, 256, (40, 16, 24, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    found, mirrored, places = augmented(images), 0, set()
    for image, result in zip(images.numpy(), found.numpy(), strict=True):
        padded = np.pad(image, ((2, 2), (3, 3), (0, 0)))
        windows = {(top, left): padded[top : top + 16, left : left + 24] for top in range(5) for left in range(7)}
        fits = [
            (place, flip)
            for place, window in windows.items()
            for flip in (False, True)
            if np.array_equal(result, window[:, ::-1] if flip else window)
        ]
        assert len(fits) == 1
        places.add(fits[0][0])
        mirrored += fits[0][1]
    assert 10 <= mirrored <= 30
    assert {top for top, _ in places} == set(range(5))
    assert {left for _, left in places} == set(range(7))


def test_shape_and_type_stay_and_the_input_too() -> None:
    images = torch.full((3, 32, 32, 3), 9, dtype=torch.uint8)
    result = augmented(images)
    assert (result.shape, result.dtype) == (images.shape, torch.uint8)
    assert bool((images == 9).all())


def test_the_generator_decides() -> None:
    images = torch.randint(0, 256, (8, 32, 32, 3), dtype=torch.uint8)
    assert torch.equal(augmented(images, 3), augmented(images, 3))
    assert not torch.equal(augmented(images, 3), augmented(images, 4))
