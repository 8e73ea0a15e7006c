from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import ours
from benchmarks.methods import NEEDS, Task, Verdict
from benchmarks.ours import OURS
from benchmarks.rivals import METHODS
from benchmarks.roster import RivalOptions, choose, plain_name
from vbdguard.config import EnsembleConfig, MethodConfig


def test_methods_are_chosen_by_name_each_once() -> None:
    assert list(choose(["paper", "default", "paper"])) == ["paper", "default"]
    assert list(choose(["default", "rivals"])) == ["default", *METHODS]


def test_every_method_bears_the_name_it_is_asked_for_by_and_needs_what_there_is() -> None:
    for name, method in {**OURS, **METHODS}.items():
        assert method.name == name
        assert method.needs <= NEEDS


def test_changed_settings_stand_behind_the_rivals_names_and_only_there() -> None:
    options = RivalOptions.parse(["width=16", "lr=0.05", "abl_epochs=5"])
    assert list(choose(["abl", "default"], options)) == ["abl@abl_epochs=5,lr=0.05,width=16", "default"]
    assert plain_name("abl@abl_epochs=5") == plain_name("abl") == "abl"


@pytest.mark.parametrize("text", ["width", "depth=3", "width=x", "width=1.5"])
def test_settings_that_there_are_not_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"NAME=NUMBER|invalid literal"):
        RivalOptions.parse([text])


def test_a_name_that_nobody_bears_is_refused_with_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"no method 'gut feeling'; choose among default, paper, abl"):
        choose(["gut feeling"])


def test_listing_the_methods_loads_no_torch() -> None:
    code = "import sys, benchmarks.roster as r; r.choose(['default', 'rivals']); sys.exit('torch' in sys.modules)"
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0


def test_our_verdict_has_the_settings_and_stages_of_the_scan(monkeypatch: pytest.MonkeyPatch) -> None:
    quick = MethodConfig(ensemble=EnsembleConfig(architectures=((4,),), epochs=1))
    monkeypatch.setattr(ours, "method_preset", lambda _: quick)
    images = np.random.default_rng(0).integers(0, 256, (60, 16, 16, 3), dtype=np.uint8)
    verdict = OURS["default"].detect(Task(images, np.arange(60) % 3, 3), seed=0, device=torch.device("cpu"))
    assert (verdict.is_flagged.shape, verdict.is_flagged.dtype) == ((60,), np.bool_)
    assert verdict.settings["ensemble"]["epochs"] == 1
    assert next(iter(verdict.seconds)) == "ensemble"


@pytest.mark.parametrize(("n_images", "clean"), [(5, None), (6, np.zeros((2, 8, 8, 3), np.uint8))])
def test_a_task_whose_parts_do_not_fit_is_refused(n_images: int, clean: np.ndarray | None) -> None:
    with pytest.raises(ValueError, match="expected"):
        Task(np.zeros((n_images, 8, 8, 3), np.uint8), np.zeros(6, np.int64), 2, clean_images=clean)


def test_a_verdict_can_do_without_settings() -> None:
    assert dict(Verdict(np.zeros(3, np.bool_), frozenset(), {}).settings) == {}
