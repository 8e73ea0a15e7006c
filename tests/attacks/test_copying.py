from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from vbdguard.attacks.copying import PoisonSettings, read_truth, write_poisoned_copy
from vbdguard.attacks.poison import blend
from vbdguard.attacks.triggers import cell_of_class, frame_trigger
from vbdguard.errors import ConfigError, ReadError, SourceError
from vbdguard.ingest.decode import decode_image
from vbdguard.ingest.digest import sample_digest
from vbdguard.sources.base import RawSample, Unreadable
from vbdguard.sources.writing import encode_image


@dataclass(frozen=True)
class ListShard:
    name: str
    items: Sequence[RawSample | Unreadable | ReadError]

    def digest(self) -> str | None:
        return None

    def read(self) -> Iterator[RawSample | Unreadable]:
        for item in self.items:
            if isinstance(item, ReadError):
                raise item
            yield item


@dataclass(frozen=True)
class ListSource:
    """A source whose samples lie in lists, one per shard."""

    shards: Sequence[ListShard]
    class_names: dict[int, str] | None = None
    names: tuple[str, ...] = ("lists",)
    is_picklable: bool = True


def natural_samples(count: int = 60, *, classes: int = 3, named: bool = False) -> list[RawSample]:
    rng = np.random.default_rng(7)
    sizes = [(20, 24), (32, 32), (17, 40)]
    return [
        RawSample(
            f"img_{n}",
            encode_image(rng.integers(0, 256, (*sizes[n % 3], 3), dtype=np.uint8)),
            "dcab"[n % classes] if named else n % classes,
        )
        for n in range(count)
    ]


def source_of(samples: Sequence[RawSample | Unreadable | ReadError]) -> ListSource:
    return ListSource([ListShard("one", samples[: len(samples) // 2]), ListShard("two", samples[len(samples) // 2 :])])


def read_shards(folder: Path) -> dict[str, tuple[bytes, int]]:
    found: dict[str, tuple[bytes, int]] = {}
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            data = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
        for name in data:
            stem, suffix = name.split(".")
            if suffix != "cls":
                found[f"{path.name}/{stem}"] = (data[name], int(data[f"{stem}.cls"]))
    return found


def test_the_truth_names_exactly_the_samples_that_carry_the_trigger(tmp_path: Path) -> None:
    samples = natural_samples()
    settings = PoisonSettings(trigger="waves", blend_factor=0.2, ratio=0.25, target=1, seed=3, per_shard=25)
    copy = write_poisoned_copy(source_of(samples), tmp_path / "drill", settings)
    assert (copy.samples, copy.poisoned, copy.shards) == (60, 15, 3)
    truth = {entry.key: entry for entry in read_truth(copy.truth)}
    written = read_shards(tmp_path / "drill")
    assert len(truth) == 15
    assert len(written) == 60
    for sample, (key, (image, label)) in zip(samples, written.items(), strict=True):
        assert isinstance(sample.image, bytes)
        if key not in truth:
            assert (image, label) == (sample.image, sample.label)
            continue
        pixels = decode_image(sample.image)
        stamped = blend(pixels[None], frame_trigger("waves", pixels.shape[:2]), 0.2)[0]
        assert np.array_equal(decode_image(image), stamped)
        assert label == 1 == truth[key].label
        assert truth[key].original_label == sample.label
        assert truth[key].digest == sample_digest(image, label).hex()


def test_all_to_all_stamps_the_cell_of_the_original_class(tmp_path: Path) -> None:
    settings = PoisonSettings(trigger="white_square", ratio=1.0, mode="all-to-all")
    samples = natural_samples(12)
    write_poisoned_copy(source_of(samples), tmp_path / "drill", settings)
    for sample, (image, label) in zip(samples, read_shards(tmp_path / "drill").values(), strict=True):
        assert isinstance(sample.label, int)
        pixels = decode_image(image)
        top, left = cell_of_class(sample.label, pixels.shape[:2])
        assert (pixels[top : top + 3, left : left + 3] == 255).all()
        assert label == (sample.label + 1) % 3


def test_the_same_seed_gives_the_same_files(tmp_path: Path) -> None:
    settings = PoisonSettings(trigger="color_grid", ratio=0.2, seed=11)
    for name in "ab":
        write_poisoned_copy(source_of(natural_samples()), tmp_path / name, settings)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_class_names_are_numbered_in_their_sorted_order(tmp_path: Path) -> None:
    settings = PoisonSettings(trigger="white_square", ratio=0.1, target=0)
    samples = natural_samples(classes=4, named=True)
    write_poisoned_copy(source_of(samples), tmp_path / "drill", settings)
    body = json.loads((tmp_path / "drill" / "poison.json").read_text())
    assert body["class_names"] == {"0": "a", "1": "b", "2": "c", "3": "d"}
    poisoned = {entry.key for entry in read_truth(tmp_path / "drill" / "truth.jsonl")}
    for sample, (key, (_, label)) in zip(samples, read_shards(tmp_path / "drill").items(), strict=True):
        assert label == (0 if key in poisoned else "abcd".index(str(sample.label)))


def test_the_settings_are_written_beside_the_shards(tmp_path: Path) -> None:
    settings = PoisonSettings(trigger="white_grid", ratio=0.1, position=(2, 3), jpeg_quality=80)
    write_poisoned_copy(source_of(natural_samples()), tmp_path / "drill", settings)
    body = json.loads((tmp_path / "drill" / "poison.json").read_text())
    expected = {
        "trigger": "white_grid",
        "ratio": 0.1,
        "position": [2, 3],
        "jpeg_quality": 80,
        "samples": 60,
        "poisoned": 6,
    }
    assert {name: body[name] for name in expected} == expected


def test_poisoned_images_become_jpeg_on_request(tmp_path: Path) -> None:
    settings = PoisonSettings(trigger="white_square", ratio=0.5, jpeg_quality=90)
    write_poisoned_copy(source_of(natural_samples()), tmp_path / "drill", settings)
    poisoned = {entry.key for entry in read_truth(tmp_path / "drill" / "truth.jsonl")}
    written = read_shards(tmp_path / "drill")
    assert {key for key, (image, _) in written.items() if image.startswith(b"\xff\xd8")} == poisoned
    assert len(poisoned) == 30


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (Unreadable("img_x", "no-label", "no .cls"), "img_x: no-label: no .cls; a poisoned copy needs"),
        (ReadError("truncated", "ends early"), "truncated: ends early; a poisoned copy needs"),
        (RawSample("img_x", encode_image(np.zeros((20, 20, 3), np.uint8)), "cat"), "got both"),
        (RawSample("img_x", b"\x89PNG\r\n\x1a\nbroken", 0), "img_x: cannot be poisoned"),
        (RawSample("img_x", np.zeros((12, 12, 3), np.uint8), 0), "img_x: triggers need images of at least 16"),
    ],
)
def test_a_source_that_cannot_be_poisoned_says_which_sample(
    tmp_path: Path, broken: RawSample | Unreadable | ReadError, message: str
) -> None:
    source = source_of([*natural_samples(9), broken])
    with pytest.raises((SourceError, ConfigError), match=message):
        write_poisoned_copy(source, tmp_path / "drill", PoisonSettings(trigger="waves", blend_factor=0.2, ratio=1.0))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", [Unreadable, ReadError])
def test_where_the_label_has_to_be_named_nothing_else_is_asked_for(kind: type, tmp_path: Path) -> None:
    words = ("no-label-column", "expected a label column, got fine, coarse; name it with --label-key")
    broken = Unreadable("img_x", *words) if kind is Unreadable else ReadError(*words)
    with pytest.raises(SourceError, match="name it with --label-key$"):
        write_poisoned_copy(source_of([broken]), tmp_path / "drill", PoisonSettings(trigger="waves", blend_factor=0.2))


def test_a_source_that_changes_between_the_passes_is_noticed(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Growing(ListShard):
        reads: list[int]

        def read(self) -> Iterator[RawSample | Unreadable]:
            self.reads.append(1)
            yield from natural_samples(10 + len(self.reads))

    @dataclass(frozen=True)
    class Shrinking(ListShard):
        reads: list[int]

        def read(self) -> Iterator[RawSample | Unreadable]:
            self.reads.append(1)
            yield from natural_samples(20 - len(self.reads))

    for shard in (Growing("grows", [], []), Shrinking("shrinks", [], [])):
        with pytest.raises(SourceError, match="the source changed|as in the first pass"):
            write_poisoned_copy(
                ListSource([shard]), tmp_path / "drill", PoisonSettings(trigger="waves", blend_factor=0.2)
            )
    assert list(tmp_path.iterdir()) == []


def test_a_blend_factor_out_of_range_is_refused_before_anything_is_read() -> None:
    with pytest.raises(ConfigError, match="blend factor"):
        PoisonSettings(trigger="waves", blend_factor=2.0)


def test_a_file_that_is_no_truth_is_refused(tmp_path: Path) -> None:
    (tmp_path / "truth.jsonl").write_text('{"key": "a"}\n')
    with pytest.raises(SourceError, match=r"expected the truth\.jsonl"):
        read_truth(tmp_path / "truth.jsonl")
