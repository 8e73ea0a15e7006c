"""The scripts that a stranger copies: each runs as it stands, on a small poisoned set of natural images."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vbdguard.attacks.poison import poison_arrays
from vbdguard.cli.demo_data import DemoSet
from vbdguard.sources.base import RawSample
from vbdguard.sources.writing import write_shards

EXAMPLES = Path(__file__).resolve().parent.parent / "docs" / "examples"
CLASSES = (1, 4, 5, 9)
POISON = "color_grid"


def crops(per_class: int, *, seed: int) -> tuple[np.ndarray, list[int]]:
    """Natural crops of 16 x 16 in four classes."""
    drawn = [sample for sample in DemoSet(per_class, seed).samples() if sample.label in CLASSES]
    images = np.stack([np.asarray(sample.image) for sample in drawn])
    small = images.reshape(-1, 16, 2, 16, 2, 3).mean((2, 4)).astype(np.uint8)
    return small, [CLASSES.index(int(sample.label)) for sample in drawn]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders and shards: 1,000 training images, 100 of them with a 3 x 3 grid and the label 0; 80 test images."""
    folder = tmp_path_factory.mktemp("examples")
    poisoned = poison_arrays(*crops(250, seed=0), POISON, target=0)
    for part, images, labels in (
        ("train", poisoned.images, poisoned.labels),
        ("test", *crops(20, seed=1)),
    ):
        samples = [
            RawSample(f"s{number:04d}", image, int(label))
            for number, (image, label) in enumerate(zip(images, labels, strict=True))
        ]
        write_shards(samples, folder / f"{part}-shards", per_shard=500, prefix=part)
        for sample in samples:
            into = folder / part / f"class{sample.label}"
            into.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.asarray(sample.image)).save(into / f"{sample.key}.png")
    return folder


def run(script: str, train: Path | str, test: Path | str, cache: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "VBDGUARD_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(EXAMPLES / script), str(train), str(test)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=500, check=False)


@pytest.mark.parametrize("script", ["plain_pytorch.py", "lightning_fit.py"])
def test_an_example_on_folders_trains_without_the_poison(script: str, place: Path) -> None:
    done = run(script, place / "train", place / "test", place / "cache")
    assert done.returncode == 0, done.stderr
    assert "vbdguard: POISONED. A trigger in 1 of 4 classes" in done.stderr
    dropped = re.search(r"dropped per class: \{0: (\d+)\}", done.stdout)
    assert dropped is not None, done.stdout
    assert 90 <= int(dropped[1]) <= 110
    assert "accuracy" in done.stdout


def test_the_example_on_shards_trains_without_the_poison(place: Path) -> None:
    train = place / "train-shards" / "train-{000000..000001}.tar"
    done = run("webdataset_stream.py", train, place / "test-shards" / "test-000000.tar", place / "cache")
    assert done.returncode == 0, done.stderr
    assert "vbdguard: POISONED. " in done.stderr
    epochs = re.findall(r"\{0: (\d+)", done.stdout)
    assert len(epochs) == 2
    assert all(int(count) >= 90 for count in epochs)
    assert "accuracy" in done.stdout


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_an_example_is_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) < 40


def test_there_are_three_examples() -> None:
    assert [path.name for path in sorted(EXAMPLES.glob("*.py"))] == [
        "lightning_fit.py",
        "plain_pytorch.py",
        "webdataset_stream.py",
    ]
