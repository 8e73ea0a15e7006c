from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from vbdguard.attacks.copying import read_truth
from vbdguard.cli.main import main
from vbdguard.ingest.digest import sample_digest
from vbdguard.sources.base import RawSample
from vbdguard.sources.opening import open_source
from vbdguard.sources.writing import write_shards


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["poison", *map(str, arguments)])


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    samples = (RawSample(f"img_{n}", rng.integers(0, 256, (32, 32, 3), dtype=np.uint8), n % 4) for n in range(80))
    write_shards(samples, tmp_path / "clean", per_shard=30)
    return tmp_path / "clean"


def read(folder: Path) -> dict[str, RawSample]:
    items = [item for shard in open_source(str(folder)).shards for item in shard.read()]
    assert all(isinstance(item, RawSample) for item in items)
    return {item.key: item for item in items if isinstance(item, RawSample)}


def test_a_scan_reads_the_copy_by_the_keys_and_digests_of_the_truth(shards: Path, tmp_path: Path) -> None:
    drill = tmp_path / "drill"
    result = run(shards, drill, "--trigger", "white_square", "--ratio", 0.2, "--target", 2, "--per-shard", 25)
    assert result.exit_code == 0, result.output
    samples, truth = read(drill), read_truth(drill / "truth.jsonl")
    assert len(samples) == 80
    assert len(truth) == 16
    for entry in truth:
        sample = samples[entry.key]
        assert sample_digest(sample.image, sample.label).hex() == entry.digest
        assert sample.label == 2
    assert result.stdout.endswith(f"next: vbdguard scan {drill}\n")
    assert "80 samples in 4 shards" in result.stdout
    assert "16 of them poisoned" in result.stdout
    assert "Reading the labels" in result.stderr


def test_nobody_is_warned_of_the_files_beside_a_copy(
    shards: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run(shards, tmp_path / "drill", "--trigger", "waves", "--blend-factor", 0.2)
    with caplog.at_level("WARNING"):
        open_source(tmp_path / "drill")
    assert not caplog.messages


def test_an_image_folder_becomes_numbered_shards(tmp_path: Path) -> None:
    for number in range(12):
        folder = tmp_path / "images" / ("cat" if number % 2 else "dog")
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20 + number, 24), (number * 20, 0, 0)).save(folder / f"{number}.png")
    result = run(tmp_path / "images", tmp_path / "drill", "--trigger", "waves", "--blend-factor", 0.3, "--ratio", 0.5)
    assert result.exit_code == 0, result.output
    assert {sample.label for sample in read(tmp_path / "drill").values()} == {0, 1}
    assert json.loads((tmp_path / "drill" / "poison.json").read_text())["class_names"] == {"0": "cat", "1": "dog"}


def test_a_folder_that_two_rules_label_differently_is_poisoned_by_the_one_named(tmp_path: Path) -> None:
    for number in range(12):
        folder = tmp_path / "images" / ("cat" if number % 2 else "dog") / ("old" if number % 3 else "new")
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 24), (number * 20, 0, 0)).save(folder / f"{number}.png")
    arguments = (tmp_path / "images", tmp_path / "drill", "--trigger", "waves", "--blend-factor", 0.2)
    assert "--folder-rule torchvision" in " ".join(run(*arguments).stderr.split())
    result = run(*arguments, "--folder-rule", "huggingface")
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "drill" / "poison.json").read_text())["class_names"] == {"0": "new", "1": "old"}


def test_a_sticker_from_a_file_goes_where_it_is_told(shards: Path, tmp_path: Path) -> None:
    Image.new("RGBA", (4, 5), (1, 2, 3, 255)).save(tmp_path / "sticker.png")
    result = run(shards, tmp_path / "drill", "--trigger", tmp_path / "sticker.png", "--position", "6,7", "--ratio", 1)
    assert result.exit_code == 0, result.output
    for sample in read(tmp_path / "drill").values():
        assert isinstance(sample.image, bytes)
        pixels = np.asarray(Image.open(_file(sample.image)))
        assert (pixels[6:11, 7:11] == (1, 2, 3)).all()


@pytest.mark.parametrize(
    ("width", "blend_factor", "code"), [(32, 1, 2), (40, 1, 2), (40, 0.2, 0)], ids=["of its size", "larger", "blended"]
)
def test_a_picture_over_the_whole_image_is_blended_in_but_hides_none(
    width: int, blend_factor: float, code: int, shards: Path, tmp_path: Path
) -> None:
    Image.new("RGB", (width, 32), (1, 2, 3)).save(tmp_path / "big.png")
    result = run(shards, tmp_path / "drill", "--trigger", tmp_path / "big.png", "--blend-factor", blend_factor)
    assert result.exit_code == code, result.output
    if code:
        words = " ".join(result.stderr.split())
        assert "trigger 'big' leaves nothing of an image at blend factor 1; choose 0.2, say" in words
        assert not (tmp_path / "drill").exists()


def _file(data: bytes) -> object:
    import io

    return io.BytesIO(data)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--trigger", "smiley"], "smiley: no such file; give an image, or one of white_square"),
        (["--trigger", "white_square", "--mask", "m.png"], "--mask goes with a trigger from a file"),
        (["--trigger", "white_square", "--position", "3;4"], "expected two whole numbers such as 0,29"),
        (["--trigger", "white_square", "--position", "31,31"], "does not fit"),
        (["--trigger", "white_square", "--ratio", "0"], "ratio must be above 0"),
        (["--trigger", "white_square", "--blend-factor", "1.5"], "blend factor must be"),
        (["--trigger", "white_square", "--target", "9"], "target must be one of the set's labels (0, 1, 2, 3), got 9"),
        (["--trigger", "white_square", "--target", "1", "--mode", "all-to-all"], "--target has no meaning"),
        (["--trigger", "waves", "--mode", "all-to-all"], "cannot stand in a cell"),
        ([], "Missing option '--trigger'"),
    ],
)
def test_a_wrong_setting_is_2_and_says_what_to_do(
    shards: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    result = run(shards, tmp_path / "drill", *arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
    assert not (tmp_path / "drill").exists()


def test_a_destination_in_use_is_left_alone(shards: Path) -> None:
    before = sorted(path.name for path in shards.iterdir())
    result = run(shards, shards, "--trigger", "waves")
    assert result.exit_code == 2
    assert "this one holds files; choose another" in result.stderr
    assert sorted(path.name for path in shards.iterdir()) == before


def test_a_destination_in_the_source_is_refused(shards: Path) -> None:
    before = sorted(path.name for path in shards.iterdir())
    result = run(shards, shards / "drill", "--trigger", "waves")
    assert result.exit_code == 2
    assert f"{shards / 'drill'}: expected a folder apart from the source {shards}; choose another" in result.stderr
    assert sorted(path.name for path in shards.iterdir()) == before


def test_a_truncated_shard_is_refused_by_name(shards: Path, tmp_path: Path) -> None:
    path = shards / "train-000001.tar"
    path.write_bytes(path.read_bytes()[:20_000])
    result = run(shards, tmp_path / "drill", "--trigger", "waves", "--blend-factor", 0.2)
    assert result.exit_code == 2
    assert "train-000001.tar" in result.stderr
    assert "remove what is broken" in result.stderr
    assert not (tmp_path / "drill").exists()


def test_a_missing_source_is_refused(tmp_path: Path) -> None:
    result = run(tmp_path / "nowhere", tmp_path / "drill", "--trigger", "waves")
    assert result.exit_code in (2, 3)
    assert "nowhere" in result.stderr
