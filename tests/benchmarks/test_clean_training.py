from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from benchmarks import clean_training
from benchmarks.clean_training import table
from vbdguard.cli.demo_data import DemoSet
from vbdguard.config import EnsembleConfig, MethodConfig, ScanConfig

RECORD = {
    "data": "cifar10",
    "cell": "a2o/white_grid/1/0.1",
    "seed": 0,
    "model": "small",
    "policy": "suppress",
    "epochs": None,
    "augment": True,
    "asr_unguarded": 99.0,
    "asr_guarded": 1.0,
    "accuracy_unguarded": 78.0,
    "accuracy_guarded": 79.0,
    "accuracy_clean": 79.5,
    "poison_kept": 3,
}


def test_the_table_shows_mean_and_spread_over_seeds() -> None:
    other = {**RECORD, "seed": 1, "asr_guarded": 2.0, "poison_kept": 5}
    lines = table([RECORD, other, {**RECORD, "model": "preact_resnet18"}]).splitlines()
    assert len(lines) == 4
    assert "| 0, 1 | 99.00 ± 0.00 | 1.50 ± 0.50 |" in lines[2]
    assert lines[2].endswith("| 3, 5 |")
    assert "| preact_resnet18 |" in lines[3]
    assert len({line.count("|") for line in lines}) == 1


def test_a_run_trains_three_models_and_is_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = list(DemoSet(30).samples())
    images = np.stack([np.asarray(sample.image) for sample in drawn])
    arrays = images, np.array([sample.label for sample in drawn], dtype=np.int64)
    monkeypatch.setattr(clean_training, "load_parquet", lambda *_, **__: arrays)
    quick = MethodConfig(ensemble=EnsembleConfig(architectures=((4,),), epochs=1, batch_size=32))
    monkeypatch.setattr(clean_training, "ScanConfig", partial(ScanConfig, method=quick, jobs=1))
    out = tmp_path / "results.jsonl"
    options = ["--data", "demo", "--seeds", "2", "--epochs", "1", "--cache", str(tmp_path / "cache"), "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["clean_training", *options, "--device", "cpu"])
    clean_training.main()
    clean_training.main()
    (record,) = map(json.loads, out.read_text().splitlines())
    names = ("asr_unguarded", "asr_guarded", "accuracy_unguarded", "accuracy_guarded", "accuracy_clean")
    assert all(0 <= record[name] <= 100 for name in names)
    assert (record["data"], record["poisoned"], record["seed"]) == ("demo", 30, 2)
    assert 0 <= record["poison_kept"] <= 30
