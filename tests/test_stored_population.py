"""The pixel store as the population that the method looks at."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from vbdguard.ingest.reader import Ingested, ingest
from vbdguard.sources.base import RawSample
from vbdguard.sources.writing import encode_image, write_shards
from vbdguard.stored_population import stored_population

CPU = torch.device("cpu")


@pytest.fixture
def stored(tmp_path: Path) -> Callable[..., Ingested]:
    """Read 60 images, cut into shards of a size."""

    def read(per_shard: int, seed: int = 0) -> Ingested:
        images = np.random.default_rng(seed).integers(0, 256, (60, 16, 16, 3), dtype=np.uint8)
        samples = [RawSample(f"s{i:02d}", encode_image(image), i % 3) for i, image in enumerate(images)]
        folder = tmp_path / f"{per_shard}-{seed}"
        write_shards(samples, folder / "shards", per_shard=per_shard)
        return ingest(str(folder / "shards"), store_dir=folder / "store")

    return read


def test_images_and_labels_are_those_of_the_store(stored: Callable[..., Ingested]) -> None:
    ingested = stored(25)
    population = stored_population(ingested, CPU)
    store = ingested.store
    whole = population.whole()
    np.testing.assert_array_equal(whole.images.numpy(), store.gather(np.arange(60)))
    np.testing.assert_array_equal(whole.labels.numpy(), store.labels)
    assert (len(population), population.n_classes, population.images.image_shape) == (60, 3, (16, 16, 3))
    wanted = torch.tensor([59, 0, 17, 0])
    assert torch.equal(population.at(wanted).images, whole.images[wanted])
    assert torch.equal(torch.cat([part.images for _, part in population.chunks()]), whole.images)


def test_the_draw_follows_from_the_data_however_they_are_cut(stored: Callable[..., Ingested]) -> None:
    one, cut_anew, others = (stored_population(stored(*how), CPU) for how in ((25,), (11,), (25, 1)))
    assert one.draw == cut_anew.draw != others.draw
    assert torch.equal(one.whole().images, cut_anew.whole().images)
    assert 0 <= one.draw < 1 << 60  # a seed of 32 bits still fits beside it


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_pixels_that_were_read_are_held_once(stored: Callable[..., Ingested]) -> None:
    ingested = stored(25)
    images = stored_population(ingested, CPU).images.all()
    assert len(images) == 60
    lines = Path("/proc/self/smaps").read_text().splitlines()
    starts = [number for number, line in enumerate(lines) if line.endswith("pixels.npy")]
    held = [next(line for line in lines[start:] if line.startswith("Rss:")) for start in starts]
    assert len(held) == 3
    assert all(line.split()[1] == "0" for line in held)
