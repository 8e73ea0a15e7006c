"""A poisoned copy of a data set on disk, with the truth about it.

    <dest>/
    ├── train-000000.tar, ...  every sample; those that are not poisoned keep their bytes
    ├── truth.jsonl            one line per poisoned sample: key, digest, original_label, label
    └── poison.json            the settings, the counts and the class names

The source is read twice, first its labels, then sample by sample; memory holds the labels and one image.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from vbdguard import __version__
from vbdguard.attacks.poison import PoisonPlan, blend, check_blend_factor, plan_poisoning
from vbdguard.attacks.triggers import Mode, Size, Trigger, frame_trigger
from vbdguard.errors import ConfigError, ReadError, SourceError
from vbdguard.ingest.decode import decode_image
from vbdguard.ingest.digest import sample_digest
from vbdguard.progress import Progress, Silent
from vbdguard.sources.apart import check_apart
from vbdguard.sources.base import RawSample, Shard, Source, Unreadable
from vbdguard.sources.writing import ShardWriter, check_writable_folder, encode_image, staged_folder

_REMEDY = "a poisoned copy needs a source that can be read in full; remove what is broken"


@dataclass(frozen=True, slots=True, kw_only=True)
class PoisonSettings:
    """One attack (see `plan_poisoning`, `frame_trigger` and `blend` for the ranges) and how its shards are written.

    Raises:
        ConfigError: if the blend factor is out of range.
    """

    trigger: str | Trigger
    blend_factor: float = 1.0
    ratio: float = 0.1
    mode: Mode = "all-to-one"
    target: int = 0
    position: Size | None = None
    seed: int = 0
    per_shard: int = 5000
    jpeg_quality: int | None = None
    """Write poisoned images as JPEG 4:2:0 of this quality, 1 to 95; None writes PNG, which keeps every pixel."""

    def __post_init__(self) -> None:
        check_blend_factor(self.blend_factor)

    def to_dict(self) -> dict[str, Any]:
        """Return the settings JSON-ready; a trigger of one's own by its name."""
        body = {name: getattr(self, name) for name in self.__dataclass_fields__}
        body["trigger"] = self.trigger if isinstance(self.trigger, str) else self.trigger.name
        return body


@dataclass(frozen=True, slots=True)
class PoisonedSample:
    """The truth about one poisoned sample, as truth.jsonl has it."""

    key: str
    """`<shard file>/<key>`, as a scan names it."""
    digest: str
    """Hex `sample_digest` of the written image and label."""
    original_label: int
    label: int


@dataclass(frozen=True, slots=True)
class PoisonedCopy:
    """What `write_poisoned_copy` wrote."""

    samples: int
    poisoned: int
    shards: int
    truth: Path


@dataclass(frozen=True, slots=True, eq=False)
class _Labels:
    numbers: NDArray[np.int64]
    """int64 (N,), in the order of reading."""
    number_of: Mapping[str, int]
    """Class names and their numbers 0 to K - 1; empty where the source has numbers."""

    def fits(self, index: int, label: int | str) -> bool:
        """Whether the sample read at `index` bears the label that it bore before."""
        number = self.number_of.get(label) if isinstance(label, str) else int(label)
        return index < len(self.numbers) and number == self.numbers[index]


def write_poisoned_copy(
    source: Source, dest: Path, settings: PoisonSettings, *, progress: Progress | None = None
) -> PoisonedCopy:
    """Write a poisoned copy of a source as shards into a new folder, and return what was written.

    Where the source has class names instead of numbers, the sorted names are numbered from 0; poison.json lists them.

    Args:
        source: samples that can all be read and are labelled throughout.
        dest: a folder that does not exist yet or is empty; it appears whole or not at all.
        settings: the attack.
        progress: hears of the two passes.

    Raises:
        SourceError: if a sample cannot be read or has no label, or `dest` cannot be written or lies in the source.
        ConfigError: if the attack does not fit the data.
    """
    listener = progress or Silent()
    check_writable_folder(dest)
    check_apart(dest.resolve(), source)
    labels = _read_labels(source, listener)
    attack = {name: getattr(settings, name) for name in ("ratio", "mode", "target", "seed")}
    plan = plan_poisoning(labels.numbers, **attack)
    with staged_folder(dest) as folder:
        with ShardWriter(folder, per_shard=settings.per_shard) as writer, _text_file(folder / "truth.jsonl") as truth:
            _write_samples(source, labels, plan, settings, writer=writer, truth=truth, progress=listener)
        shards = len(writer.written.shards)
        _write_settings(folder / "poison.json", settings, source=source, labels=labels, poisoned=len(plan.indices))
    return PoisonedCopy(len(labels.numbers), len(plan.indices), shards, dest / "truth.jsonl")


def read_truth(path: Path) -> tuple[PoisonedSample, ...]:
    """Return the poisoned samples that a truth.jsonl lists.

    Raises:
        SourceError: if the file cannot be read or a line is not such an entry.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        return tuple(PoisonedSample(**json.loads(line)) for line in lines)
    except (OSError, ValueError, TypeError) as error:
        raise SourceError(f"{path}: expected the truth.jsonl of a poisoned copy: {error}") from error


def _write_samples(
    source: Source,
    labels: _Labels,
    plan: PoisonPlan,
    settings: PoisonSettings,
    *,
    writer: ShardWriter,
    truth: TextIO,
    progress: Progress,
) -> None:
    new_labels = dict(zip(plan.indices.tolist(), plan.new_labels.tolist(), strict=True))
    ranks = np.searchsorted(np.unique(labels.numbers), labels.numbers)
    stamp = _Stamp(settings)
    progress.begin("Writing the poisoned copy", len(labels.numbers))
    index = -1
    for index, sample in enumerate(_samples(source)):
        if not labels.fits(index, sample.label):
            raise SourceError(
                f"{sample.key}: the source changed while it was read; try again when nothing writes to it"
            )
        original = int(labels.numbers[index])
        label = new_labels.get(index)
        image = sample.image if label is None else stamp.apply(sample, int(ranks[index]))
        written = writer.add(RawSample(sample.key, image, original if label is None else label))
        if label is not None:
            digest = sample_digest(written.image, label).hex()
            entry = PoisonedSample(written.key, digest, original, label)
            truth.write(json.dumps(asdict(entry)) + "\n")
        progress.advance()
    if index + 1 != len(labels.numbers):
        raise SourceError(f"expected {len(labels.numbers)} samples as in the first pass, got {index + 1}; try again")
    progress.end()


class _Stamp:
    """Puts the trigger on encoded images; each place is drawn once per image size."""

    def __init__(self, settings: PoisonSettings) -> None:
        self._settings = settings
        self._framed = lru_cache(maxsize=512)(self._frame)

    def apply(self, sample: RawSample, rank: int) -> bytes:
        """Return the encoded image with the trigger of a class on it."""
        try:
            pixels = decode_image(sample.image)
        except ReadError as error:
            raise SourceError(f"{sample.key}: cannot be poisoned, {error}; remove the sample") from error
        try:
            trigger = self._framed((pixels.shape[0], pixels.shape[1]), rank)
        except ConfigError as error:
            raise ConfigError(f"{sample.key}: {error}") from error
        stamped = blend(pixels[None], trigger, self._settings.blend_factor)[0]
        return encode_image(stamped, jpeg_quality=self._settings.jpeg_quality)

    def _frame(self, size: Size, rank: int) -> Trigger:
        attack = self._settings
        framed = frame_trigger(attack.trigger, size, mode=attack.mode, position=attack.position, rank=rank)
        if attack.blend_factor == 1 and framed.mask.all():
            raise ConfigError(f"trigger {framed.name!r} leaves nothing of an image at blend factor 1; choose 0.2, say")
        return framed


def _read_labels(source: Source, progress: Progress) -> _Labels:
    progress.begin("Reading the labels", len(source.shards))
    given: list[int | str] = []
    for shard in source.shards:
        given.extend(sample.label for sample in _shard_samples(shard))
        progress.advance()
    progress.end()
    names = sorted({label for label in given if isinstance(label, str)})
    if names and not all(isinstance(label, str) for label in given):
        raise SourceError(f"expected class numbers throughout or names throughout, got both (a name: {names[0]!r})")
    number_of = {name: number for number, name in enumerate(names)}
    numbers = [number_of[label] if isinstance(label, str) else int(label) for label in given]
    return _Labels(np.array(numbers, dtype=np.int64), number_of)


def _samples(source: Source) -> Iterator[RawSample]:
    for shard in source.shards:
        yield from _shard_samples(shard)


def _shard_samples(shard: Shard) -> Iterator[RawSample]:
    try:
        for item in shard.read():
            if isinstance(item, Unreadable):
                raise SourceError(_with_remedy(f"{item.key}: {item.reason}: {item.detail}"))
            yield item
    except ReadError as error:
        raise SourceError(_with_remedy(f"{shard.name}: {error}")) from error


def _with_remedy(words: str) -> str:
    """Add what to do, unless nothing is broken and only the label has to be named."""
    return words if "--label-key" in words else f"{words}; {_REMEDY}"


def _write_settings(path: Path, settings: PoisonSettings, *, source: Source, labels: _Labels, poisoned: int) -> None:
    body = {
        "tool": {"name": "vbdguard", "version": __version__},
        "sources": list(source.names),
        **settings.to_dict(),
        "samples": len(labels.numbers),
        "poisoned": poisoned,
        "class_names": _class_names(source, labels),
    }
    path.write_text(json.dumps(body, indent=2) + "\n", encoding="utf-8")


def _class_names(source: Source, labels: _Labels) -> Mapping[int, str] | None:
    return {number: name for name, number in labels.number_of.items()} or source.class_names


def _text_file(path: Path) -> TextIO:
    return path.open("w", encoding="utf-8", newline="\n")
