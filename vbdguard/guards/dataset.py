"""A map-style dataset that yields only what a scan has kept.

torch's fetcher, pickling and frameworks look datasets up by attribute, so a careless pass-through
switches a guard off: `__getitems__` of the inner dataset would be called with the guard's indices. No
dunder, no method and no attribute with one entry per inner sample is therefore passed through.
"""

from __future__ import annotations

import inspect
import operator
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from vbdguard.config import ScanConfig
from vbdguard.errors import SourceError, UnscannedSampleError
from vbdguard.guards.counts import DropCounts, GuardRecord
from vbdguard.guards.ledger import Ledger, NotingSource, read_all, require_same_data
from vbdguard.guards.policy import OnPoison, OnUnscanned, Policy
from vbdguard.guards.relabel import new_label, relabelled
from vbdguard.guards.scanned_files import ScannedFiles, note_files
from vbdguard.guards.timm_reading import trusted_view
from vbdguard.guards.untransformed import Untransformed
from vbdguard.guards.verdict import Verdict, apply_policy
from vbdguard.report import ScanReport
from vbdguard.sources.torch_dataset import TorchDatasetSource, raw_fetcher
from vbdguard.sources.torch_items import is_tensor
from vbdguard.sources.torch_views import label_transform_of

SETTABLE = ("transform", "target_transform", "transforms")
"""Attributes that are set on the inner dataset when they are set on the guard."""
_LABEL_LISTS = ("targets", "labels")
_SAMPLE_LISTS = ("samples", "imgs")
_INNER_DATA = ("dataset", "datasets")
"""What wrappers call the data that they wrap: whoever unwraps a guarded one would go around the guard."""
_CLASS_ATTRIBUTES = ("classes", "class_to_idx")
"""One entry per class; never mistaken for one per sample, not even with as many samples as classes."""
_STATE_METHODS = ("set_epoch", "state_dict", "load_state_dict")
"""Methods that say how the inner dataset stands and hand out no sample; loaders look for them by name."""


class GuardedDataset(Dataset[Any]):
    """A map-style dataset without its poisoned samples.

    The dataset is scanned at the first use that needs it (length, item, `report`, `targets`, pickling), or a
    cached report on the same data is taken. What the scan saw is what passes: a sample is found by its digest,
    never by its place. Items come from the inner dataset with its transforms, as they would unguarded. Where the
    dataset tells which file an item is read from (torchvision's folders and file lists, timm's folders, also inside
    `Subset` and `ConcatDataset`), a file that was changed since the scan meets `on_unscanned` when it is read; no index
    can be left out by then, so "drop" raises too. What other datasets read later is compared at the scan only.

    Attributes of the inner dataset can be read through the guard, with these exceptions: `targets`,
    `labels`, `samples` and `imgs` come filtered (and relabelled); any other attribute with one entry per inner
    sample is refused with an AttributeError, since it would be misaligned, whether or not anything was dropped;
    so are methods, which could hand out unguarded samples. `unguarded` is the inner dataset. Setting
    `transform`, `target_transform` or `transforms` reaches it. `counts` says how many samples of each class are
    dropped, relabelled or let pass.

    Guards and torch's `Subset` and `ConcatDataset` nest either way round: the scan looks through all of them. timm's
    ImageDataset puts another sample in the place of one that it cannot read; behind a guard, only a kept one, and under
    on_unscanned="warn" only, where the file can be told to have changed.

    With DataLoader workers that are forked, call `len()` on the guard before: a worker that starts without
    a verdict must find its own (a DataLoader with shuffle=True or a spawned one sees to it).

    Args:
        dataset: has `__len__` and `__getitem__`; items are (image, label) or dicts.
        on_poison: `drop`, `relabel`, `warn` or `raise` (`vbdguard.guards.policy` says what they mean).
        on_unscanned: `raise`, `drop` or `warn`, for samples that the scan could not read.
        raw: untransformed samples, where `dataset` transforms them and is not torchvision's: a dataset of the
            same length or a function from an index to (image, label).
        config: settings of the scan; None takes the defaults.
        report: the outcome of an earlier scan of this dataset; no scan runs, but the data are read once to
            make sure that it speaks of them.
        cache_dir: where reports and pixels are cached; None takes the default place.

    Raises:
        ConfigError: if a policy is not one of its words.
        SourceError: at first use, if the dataset cannot be scanned.
        PoisonFoundError: at first use, under on_poison="raise".
        UnscannedSampleError: at first use, under on_unscanned="raise", or if `report` speaks of other data; at an
            access, unless on_unscanned="warn", if the file behind it is not the one that was scanned.
    """

    def __init__(
        self,
        dataset: Any,
        *,
        on_poison: OnPoison = "drop",
        on_unscanned: OnUnscanned = "raise",
        raw: Any | None = None,
        config: ScanConfig | None = None,
        report: ScanReport | None = None,
        cache_dir: str | Path | None = None,
    ) -> None:
        self._policy = Policy(on_poison=on_poison, on_unscanned=on_unscanned)
        self._inner = dataset
        self._raw = raw
        self._config = config
        self._given_report = report
        self._cache_dir = None if cache_dir is None else Path(cache_dir)
        self._outcome: tuple[Ledger, ScanReport] | None = None
        """What the scan gave, until the policy has made a verdict of it."""
        self._verdict: Verdict | None = None
        self._files: ScannedFiles | None = None
        self._items: Any = dataset
        """Where items come from: the inner dataset, or a view of it that has its own way with broken files."""

    @property
    def unguarded(self) -> Any:
        """The inner dataset, with everything that the scan flagged still in it."""
        return self._inner

    @property
    def report(self) -> ScanReport:
        """The scan's outcome; can be read whatever the policy does about it."""
        return self._scan()[1] if self._verdict is None else self._verdict.report

    @property
    def kept_indices(self) -> NDArray[np.int64]:
        """The inner indices that pass, (n,) ascending: item i of the guard is item kept_indices[i] of the inner."""
        return self._scanned().kept.copy()

    @property
    def flagged_indices(self) -> NDArray[np.int64]:
        """The inner indices that the scan flags, (m,) ascending, whether or not the policy lets them pass."""
        return self._scanned().flagged.copy()

    @property
    def verdict(self) -> Verdict:
        """What the scan and the policy together mean for each inner index."""
        return self._scanned()

    @property
    def counts(self) -> DropCounts:
        """How many samples of each class are dropped, relabelled or let pass; the same in every epoch."""
        return self._scanned().counts

    @property
    def vbdguard(self) -> GuardRecord:
        """Report and counts under the name that every guarded thing has for them."""
        return GuardRecord(report=self.report, counts=self.counts)

    @property
    def untransformed(self) -> Untransformed:
        """The kept samples as the scan saw them; what a scan of this guard looks at."""
        return Untransformed(raw_fetcher(self._inner, self._raw), self._scanned())

    def __len__(self) -> int:
        return len(self._scanned().kept)

    def __getitem__(self, index: Any) -> Any:
        verdict = self._current_verdict()
        inner_index = _inner_index(verdict.kept, index)
        item = self._items[inner_index]
        self._require_scanned_files([inner_index])
        return self._admit(verdict, inner_index, item) if verdict.new_labels else item

    def __getitems__(self, indices: Sequence[Any]) -> list[Any]:
        """Return the items at `indices`, in one call of the inner dataset where it has `__getitems__`."""
        verdict = self._current_verdict()
        inner_indices = _inner_indices(verdict.kept, indices)
        source = self._items
        fetch_many = getattr(source, "__getitems__", None)
        items = fetch_many(inner_indices) if callable(fetch_many) else [source[index] for index in inner_indices]
        if len(items) != len(inner_indices):
            raise SourceError(
                f"{type(self._inner).__name__}: expected {len(inner_indices)} items from its __getitems__, "
                f"got {len(items)}; which sample is which cannot be told"
            )
        self._require_scanned_files(inner_indices)
        if not verdict.new_labels:
            return items if isinstance(items, list) else list(items)
        return [self._admit(verdict, index, item) for index, item in zip(inner_indices, items, strict=True)]

    def _require_scanned_files(self, inner_indices: Sequence[int]) -> None:
        # After the items were read: a file that is exchanged in between must not pass.
        if self._files is None:
            return
        for index in inner_indices:
            if not self._files.is_known(index) and not self._files.holds_scanned(index, self._fetch_raw):
                name, is_seen = type(self._inner).__name__, self._raw is not _left_behind
                self._policy.meet_changed_file(self._files.path(index), name=name, is_seen=is_seen)

    def _fetch_raw(self, index: int) -> Any:
        return raw_fetcher(self._inner, self._raw)(index)

    def _admit(self, verdict: Verdict, inner_index: int, item: Any) -> Any:
        change = verdict.new_labels.get(inner_index)
        if change is None:
            return item
        return relabelled(item, change, transform=label_transform_of(self._inner, inner_index))

    def _current_verdict(self) -> Verdict:
        # Every item comes by here, so one attribute lookup decides in the usual case.
        verdict = self._verdict or self._scanned()
        if len(self._inner) != verdict.length:
            raise UnscannedSampleError(
                f"{type(self._inner).__name__}: expected the {verdict.length} samples that were scanned, "
                f"got {len(self._inner)}; guard the dataset anew after changing it"
            )
        return verdict

    def _scanned(self) -> Verdict:
        if self._verdict is None:
            ledger, report = self._scan()
            verdict = apply_policy(self._policy, ledger, report, name=type(self._inner).__name__)
            self._items = trusted_view(self._inner, verdict)
            self._verdict = verdict
            self._outcome = None
        return self._verdict

    def _scan(self) -> tuple[Ledger, ScanReport]:
        if self._outcome is None:
            try:
                self._outcome = self._read_and_scan()
            except AttributeError as error:
                # Out of a property, it would send Python to __getattr__ and hide its cause.
                raise SourceError(f"{type(self._inner).__name__}: the scan failed: {error!r}") from error
        return self._outcome

    def _read_and_scan(self) -> tuple[Ledger, ScanReport]:
        source = TorchDatasetSource(self._inner, raw=self._raw)
        files = note_files(self._inner, len(source))
        ledger = Ledger(len(source))
        noting = NotingSource(source, ledger)
        report = self._given_report
        if report is None:
            from vbdguard.scanner import scan

            report = scan(noting, self._config, cache_dir=self._cache_dir)
        if not ledger.is_complete:
            read_all(noting)
        require_same_data(ledger, report, name=type(self._inner).__name__)
        if files is not None:
            files.close(ledger)
        self._files = files
        return ledger, report

    def __getattr__(self, name: str) -> Any:
        # Unpickling and copying look attributes up before there are any.
        if name.startswith("_") or "_inner" not in self.__dict__:
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        value = getattr(self._inner, name)
        if name in _CLASS_ATTRIBUTES or name in SETTABLE or name in _STATE_METHODS:
            return value
        if name in _INNER_DATA:
            raise self._refusal(name, "what the unguarded samples come from")
        if inspect.isroutine(value) and getattr(value, "__self__", None) is self._inner:
            raise self._refusal(name, "a method, which could hand out samples that the guard has taken out")
        if not _has_length(value, len(self._inner)):
            return value
        if name in _LABEL_LISTS or name in _SAMPLE_LISTS:
            return self._kept_part(value, holds_items=name in _SAMPLE_LISTS)
        raise self._refusal(name, "one entry per unguarded sample, which does not match the guard's indices")

    def _refusal(self, name: str, why: str) -> AttributeError:
        return AttributeError(
            f"{type(self).__name__} does not pass {name!r} through: in {type(self._inner).__name__} it is {why}; "
            f"take it from .unguarded.{name}, and select by .kept_indices"
        )

    def _kept_part(self, values: Any, *, holds_items: bool) -> Any:
        verdict = self._current_verdict()
        part = _select(values, verdict.kept)
        change_one = relabelled if holds_items else new_label
        for index, change in verdict.new_labels.items():
            place = int(np.searchsorted(verdict.kept, index))
            part[place] = change_one(part[place], change)
        return tuple(part) if isinstance(values, tuple) else part

    def __setattr__(self, name: str, value: Any) -> None:
        if name in SETTABLE:
            setattr(self._inner, name, value)
        elif name.startswith("_") or hasattr(type(self), name) or not hasattr(self._inner, name):
            super().__setattr__(name, value)
        else:
            raise AttributeError(
                f"{type(self).__name__} passes only {', '.join(SETTABLE)} on to the inner dataset; "
                f"set {name!r} on .unguarded, before the guard is made if it changes the samples"
            )

    def __getstate__(self) -> dict[str, Any]:
        # Workers must not scan again; they want `raw` for files that change, and do without where it is a lambda.
        self._scanned()
        is_wanted = self._raw is None or (self._files is not None and _is_picklable(self._raw))
        return {**self.__dict__, "_raw": self._raw if is_wanted else _left_behind}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    def __repr__(self) -> str:
        name = type(self._inner).__name__
        if self._verdict is None:
            return f"{type(self).__name__}({name}, not scanned yet)"
        kept, length = len(self._verdict.kept), self._verdict.length
        return f"{type(self).__name__}({name}, {kept:,} of {length:,} samples kept, verdict {self.report.verdict})"


def _is_picklable(value: Any) -> bool:
    try:
        pickle.dumps(value)
    except Exception:  # whatever its parts make of being pickled
        return False
    return True


def _left_behind(index: int) -> NoReturn:
    """Stand for a `raw` that stayed in the process that scanned."""
    raise SourceError(
        f"item {index}: raw= stayed in the process that scanned; pass a dataset, or a function that a module defines"
    )


def _inner_index(kept: NDArray[np.int64], index: Any) -> int:
    try:
        place = operator.index(index)
    except TypeError:
        raise TypeError(
            f"expected one integer index, got {type(index).__name__}; for several samples use torch.utils.data.Subset"
        ) from None
    try:
        return kept.item(place)
    except IndexError:
        raise _out_of_range(place, len(kept)) from None


def _inner_indices(kept: NDArray[np.int64], indices: Sequence[Any]) -> list[int]:
    """Return the same as `_inner_index` for each; the batch at once where it holds nothing but integers."""
    places = np.asarray(indices)
    if places.ndim != 1 or places.dtype.kind not in "iu":
        return [_inner_index(kept, index) for index in indices]
    try:
        inner: list[int] = kept[places].tolist()
    except IndexError:
        # One by one, for a message that names the index.
        return [_inner_index(kept, index) for index in indices]
    return inner


def _out_of_range(place: int, length: int) -> IndexError:
    return IndexError(f"index {place} is out of range for {length} kept samples")


def _has_length(value: Any, length: int) -> bool:
    if isinstance(value, (str, bytes, Mapping)):
        return False
    try:
        return len(value) == length
    except TypeError:
        return False


def _select(values: Any, indices: NDArray[np.int64]) -> Any:
    """Return the entries at `indices` as a new array, tensor or list."""
    if isinstance(values, np.ndarray) or is_tensor(values):
        return values[indices]
    return [values[index] for index in indices.tolist()]
