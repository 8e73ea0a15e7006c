"""Any iterable dataset behind a guard: the same stream minus the poison, and never noise in the place of a scan."""

from __future__ import annotations

import io
import pickle
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

import vbdguard.guards.stream_source
from vbdguard.errors import UnreadableError, UnscannedSampleError
from vbdguard.guards.iterable import GuardedStream
from vbdguard.guards.policy import GuardWarning
from vbdguard.ingest.digest import sample_digest


def encoded(pixels: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


class Stream(IterableDataset[Any]):
    """Pairs that are split among workers, as `form` makes them; what a user writes."""

    def __init__(self, pairs: list[tuple[Any, int]]) -> None:
        self.pairs = pairs
        self.passes = 0

    def __iter__(self) -> Iterator[Any]:
        self.passes += 1
        worker = get_worker_info()
        yield from self.pairs if worker is None else self.pairs[worker.id :: worker.num_workers]


class Sized(Stream):
    def __len__(self) -> int:
        return len(self.pairs)


FORMS = {
    "bytes": encoded,
    "array": np.array,
    "picture": Image.fromarray,
    "tensor": lambda pixels: torch.from_numpy(pixels.transpose(2, 0, 1).copy()),
    "Hugging Face": lambda pixels: {"bytes": encoded(pixels), "path": None},
}


@pytest.fixture(scope="session")
def pairs(shards: Any) -> list[tuple[Any, int]]:
    """The pixels and labels that the shards were made of."""
    import webdataset as wds

    stream = wds.WebDataset(shards.urls, shardshuffle=False).decode("rgb8").to_tuple("png", "cls")
    return [(pixels.copy(), int(label)) for pixels, label in stream]


pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:Exception ignored in. <_io:pytest.PytestUnraisableExceptionWarning"),
]


def identities(items: Any) -> Counter[bytes]:
    return Counter(sample_digest(np.asarray(image), int(label)) for image, label in items)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_image_is_recognised(shards: Any, pairs: list[tuple[Any, int]], form: str) -> None:
    stream = Stream([(FORMS[form](pixels), label) for pixels, label in pairs])
    guarded = GuardedStream(stream, **shards.options)
    found = list(guarded)
    assert len(found) == 90 - len(guarded.report.flagged)
    assert {entry.label for entry in guarded.report.flagged} == set(guarded.counts.total.dropped)
    assert all(any(item is own for own in stream.pairs) for item in found), "items come as the stream made them"


def test_the_stream_loses_exactly_what_is_flagged(shards: Any, pairs: list[tuple[Any, int]]) -> None:
    guarded = GuardedStream(Stream(pairs), **shards.options)
    flagged = Counter(bytes.fromhex(entry.digest) for entry in guarded.report.flagged)
    assert flagged
    assert identities(guarded) == identities(pairs) - flagged


def test_dicts_and_other_orders_are_understood(shards: Any, pairs: list[tuple[Any, int]]) -> None:
    stream = Stream([{"image": pixels, "label": label, "id": 7} for pixels, label in pairs])  # type: ignore[misc]
    guarded = GuardedStream(stream, **shards.options)
    stream.pairs.reverse()
    assert len(list(guarded)) == 90 - len(guarded.report.flagged)
    assert all(item["id"] == 7 for item in guarded)


@pytest.mark.parametrize("is_persistent", [False, True])
def test_workers_yield_the_same_and_count_together(
    shards: Any, pairs: list[tuple[Any, int]], is_persistent: bool
) -> None:
    guarded = GuardedStream(Stream(pairs), **shards.options)
    settings: dict[str, Any] = {"num_workers": 2, "persistent_workers": is_persistent, "batch_size": None}
    loader = DataLoader(guarded, multiprocessing_context="fork", **settings)
    expected = identities(GuardedStream(Stream(pairs), **shards.options))
    for _ in range(2):
        assert identities(loader) == expected
    assert [entry.passed for entry in guarded.counts.epochs] == [expected.total()] * 2


def test_a_pickled_stream_guards_alike_and_does_not_scan_again(shards: Any, pairs: list[tuple[Any, int]]) -> None:
    guarded = GuardedStream(Sized(pairs), **shards.options)
    again = pickle.loads(pickle.dumps(guarded))
    passes = again.unguarded.passes
    assert identities(again) == identities(guarded)
    assert again.unguarded.passes == passes + 1


def test_a_short_stream_is_hashed_and_scanned_in_one_pass_after_the_look_at_sizes(
    shards: Any, pairs: list[tuple[Any, int]], tmp_path: Path
) -> None:
    stream = Stream(pairs)
    GuardedStream(stream, config=shards.options["config"], cache_dir=tmp_path)
    assert stream.passes == 2


def test_a_length_is_passed_on_only_where_it_is_exact(shards: Any, pairs: list[tuple[Any, int]]) -> None:
    assert not hasattr(GuardedStream(Stream(pairs), **shards.options), "__len__")
    sized = GuardedStream(Sized(pairs), **shards.options)
    assert len(sized) == len(list(sized))
    sized.unguarded.pairs = pairs[:50]
    with pytest.raises(TypeError, match="says 50"):
        len(sized)


def test_relabelled_items_bear_the_suggested_class(shards: Any, pairs: list[tuple[Any, int]]) -> None:
    guarded = GuardedStream(Sized(pairs), on_poison="relabel", **shards.options)
    suggested = {entry.digest: entry.suggested_label for entry in guarded.report.flagged}
    expected = [(pixels, suggested.get(sample_digest(pixels, label).hex(), label)) for pixels, label in pairs]
    assert identities(guarded) == identities(expected)
    assert guarded.counts.total.relabelled == Counter(entry.label for entry in guarded.report.flagged)
    assert len(guarded) == 90


class Noisy(Stream):
    """Augments at random."""

    def __iter__(self) -> Iterator[Any]:
        rng = np.random.default_rng()
        for pixels, label in super().__iter__():
            yield rng.integers(0, 256, pixels.shape, dtype=np.uint8), label


def test_a_stream_that_augments_stops_at_once_with_advice(shards: Any, pairs: list[tuple[Any, int]]) -> None:
    guarded = GuardedStream(Noisy(pairs), on_poison="drop", **shards.options)
    with pytest.raises(UnscannedSampleError, match="random augmentation.*before it is augmented"):
        next(iter(guarded))


def test_a_long_stream_that_augments_is_found_out_by_the_scan(
    shards: Any, pairs: list[tuple[Any, int]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(vbdguard.guards.stream_source, "MAX_REPLAY", 1000)
    with pytest.raises(UnreadableError, match="gave other samples when it was read again"):
        GuardedStream(Noisy(pairs), config=shards.options["config"], cache_dir=tmp_path)


def test_a_long_stream_may_come_in_another_order_each_time(
    shards: Any, pairs: list[tuple[Any, int]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Shuffled(Stream):
        def __iter__(self) -> Iterator[Any]:
            np.random.default_rng(self.passes).shuffle(self.pairs)  # type: ignore[arg-type]
            yield from super().__iter__()

    monkeypatch.setattr(vbdguard.guards.stream_source, "MAX_REPLAY", 1000)
    guarded = GuardedStream(Shuffled(list(pairs)), config=shards.options["config"], cache_dir=tmp_path)
    assert len(list(guarded)) == 90 - len(guarded.report.flagged)


def test_items_without_an_image_are_unscanned(shards: Any, pairs: list[tuple[Any, int]]) -> None:
    stream = Stream([*pairs, ("no image", 1)])
    with pytest.raises(UnscannedSampleError, match="bad-layout"):
        GuardedStream(stream, **shards.options)
    guarded = GuardedStream(stream, on_unscanned="drop", **shards.options)
    assert not any(isinstance(image, str) for image, _ in guarded)
    assert guarded.counts.total.unscanned == 1
    with pytest.warns(GuardWarning, match="lets them pass"):
        lenient = GuardedStream(stream, on_unscanned="warn", **shards.options)
    with pytest.warns(GuardWarning, match="Stream/90"):
        images = [image for image, _ in lenient]
    assert images[-1] == "no image"


class Stateful(Stream):
    def __init__(self, pairs: Any) -> None:
        super().__init__(pairs)
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.epoch}


def test_state_is_passed_through_where_the_stream_has_one_and_nothing_else_is(
    shards: Any, pairs: list[tuple[Any, int]]
) -> None:
    guarded = GuardedStream(Stateful(pairs), **shards.options)
    guarded.set_epoch(4)
    assert guarded.state_dict() == {"epoch": 4}
    assert not hasattr(guarded, "load_state_dict")
    assert not hasattr(GuardedStream(Stream(pairs), **shards.options), "set_epoch")
    with pytest.raises(AttributeError, match="unguarded"):
        _ = guarded.pairs
