"""guard() gives back the kind of thing it was given, or says what to type instead."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import lightning
import pytest
import webdataset as wds
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from torch.utils.data import DataLoader, Subset

import vbdguard
from vbdguard.errors import ConfigError, SourceError
from vbdguard.guards.dataset import GuardedDataset
from vbdguard.report import ScanReport


def test_a_map_style_dataset_becomes_a_guarded_dataset(data: Any, report: ScanReport) -> None:
    guarded = vbdguard.guard(data, report=report)
    assert isinstance(guarded, GuardedDataset)
    assert len(guarded) == 21


def test_a_list_of_pairs_is_a_dataset(data: Any, report: ScanReport) -> None:
    assert len(vbdguard.guard([data[index] for index in range(24)], report=report)) == 21


def test_what_is_guarded_comes_back_as_it_is(data: Any, report: ScanReport) -> None:
    guarded = vbdguard.guard(data, report=report)
    part = Subset(guarded, [0, 1])
    assert vbdguard.guard(guarded) is guarded
    assert vbdguard.guard(part) is part


def test_the_keywords_reach_the_guard(data: Any, report: ScanReport) -> None:
    assert len(vbdguard.guard(data, report=report, on_poison="relabel")) == 23
    with pytest.raises(ConfigError, match="on_poison must be one of"):
        vbdguard.guard(data, report=report, on_poison="shout")  # type: ignore[call-overload]


def test_a_dataset_that_only_looks_like_hugging_faces_is_map_style(data: Any, report: ScanReport) -> None:
    # A project's own package `datasets` with a class `Dataset` is common.
    data.__class__ = type("Dataset", (type(data),), {"__module__": "datasets.mine"})
    assert isinstance(vbdguard.guard(data, report=report), GuardedDataset)


def of_class(module: str, name: str) -> Any:
    """An instance of a class that is found where an optional library would have it."""
    return type(name, (), {"__module__": module})()


@pytest.mark.parametrize(
    ("target", "remedy"),
    [
        ("train.tar", r"is a path.*vbdguard.guard\(wds.WebDataset\(path\)"),
        (Path("train"), r"is a path.*ImageFolder"),
        (wds.WebLoader([], batch_size=None), r"wds.WebLoader\(vbdguard.guard\(dataset\)"),
        (datasets.DatasetDict(), r'splits\["train"\] = vbdguard.guard'),
        (lightning.LightningDataModule(), "vbdguard.hooks"),
        (of_class("ffcv.loader.loader", "Loader"), "indices=keep"),
        (of_class("timm.data.loader", "PrefetchLoader"), r"create_loader\(vbdguard.guard\(dataset\)"),
        (7, "has neither"),
        ({"image": 1}, "has neither"),
        (iter([]), "has neither"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_cannot_be_guarded_is_refused_with_the_remedy(target: Any, remedy: str) -> None:
    with pytest.raises(
        SourceError, match=rf"(?s)guard\(\) cannot go around this {type(target).__name__}: .*({remedy})"
    ):
        vbdguard.guard(target)


def test_asking_what_a_target_is_loads_no_framework() -> None:
    code = (
        "import sys, vbdguard\n"
        "try: vbdguard.guard(7)\n"
        "except vbdguard.errors.SourceError: pass\n"
        "loaded = {'torch', 'datasets', 'webdataset', 'lightning', 'timm', 'litdata'} & set(sys.modules)\n"
        "sys.exit(f'loaded: {loaded}' if loaded else 0)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.fixture
def accelerator() -> Iterator[Accelerator]:
    yield Accelerator(cpu=True)
    # It keeps its settings in classes, where other tests would find them.
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def test_accelerate_prepares_a_guarded_loader(data: Any, report: ScanReport, accelerator: Accelerator) -> None:
    prepared = accelerator.prepare(vbdguard.guard(DataLoader(data, batch_size=4), report=report))
    assert sum(len(labels) for _, labels in prepared) == 21


def test_a_loader_that_accelerate_has_prepared_is_refused_with_the_remedy(accelerator: Accelerator) -> None:
    with pytest.raises(SourceError, match=r"accelerator.prepare\(vbdguard.guard\(loader\)"):
        vbdguard.guard(accelerator.prepare(DataLoader([0, 1])))


def test_a_loader_becomes_a_plain_loader(data: Any, report: ScanReport) -> None:
    loader: DataLoader[Any] = vbdguard.guard(DataLoader(data), report=report)
    assert type(loader) is DataLoader
