"""Each method from a task to its verdict, on one small model that has learnt a blatant trigger."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.methods import NEEDS, Task
from benchmarks.rivals import METHODS, Rival, abl, methods, scan, spectral, strip
from benchmarks.rivals.settings import NetworkSettings
from benchmarks.rivals.victims import Victims

from .conftest import CHECKERS, CPU, TARGET, Poisoning

ROOT = Path(__file__).parents[3]


def bench_extra() -> None:
    for name in ("sklearn", "umap", "hdbscan"):
        pytest.importorskip(name)


def test_listing_the_methods_loads_no_torch() -> None:
    code = "import benchmarks.rivals, sys; sys.exit('torch' in sys.modules or 'umap' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_using_a_method_loads_torch() -> None:
    code = "import benchmarks.rivals.abl, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 1


def test_methods_ask_for_what_the_bench_can_give() -> None:
    assert all(method.needs <= NEEDS and name == method.name for name, method in METHODS.items())


@pytest.mark.parametrize("name", ["scan", "agpd", "spectral"])
def test_a_method_judges_every_sample_and_says_how_it_was_set_up(name: str, poisoning: Poisoning) -> None:
    needs = METHODS[name].needs
    verdict = Rival(name, needs, poisoning.victims).detect(poisoning.task, seed=0, device=CPU)
    assert verdict.is_flagged.shape == (len(poisoning.task.labels),)
    assert verdict.is_flagged.dtype == np.bool_
    assert set(poisoning.task.labels[verdict.is_flagged].tolist()) <= verdict.accused <= set(range(6))
    assert verdict.settings["width"] == 8
    assert verdict.settings["victim"]["epochs"] == 6
    assert verdict.seconds["victim"] == poisoning.victim.seconds > 0
    assert verdict.is_learnt is poisoning.victim.is_learnt
    json.dumps([dict(verdict.settings), dict(verdict.seconds)])


def test_scan_finds_the_poison_in_its_class(poisoning: Poisoning) -> None:
    verdict = scan.detect(poisoning.task, poisoning.victims, seed=0, device=CPU)
    assert TARGET in verdict.accused
    of_target = poisoning.task.labels == TARGET
    is_right = (verdict.is_flagged == poisoning.is_poisoned)[of_target]
    assert is_right.mean() > 0.95


def test_the_highest_spectral_scores_of_the_poisoned_class_are_poison(poisoning: Poisoning) -> None:
    verdict = spectral.detect(poisoning.task, poisoning.victims, seed=0, device=CPU)
    of_target = poisoning.task.labels == TARGET
    flagged = verdict.is_flagged & of_target
    assert flagged.sum() == round(1.5 * 0.06 * of_target.sum())
    assert poisoning.is_poisoned[flagged].mean() > 0.9


def test_spectral_signatures_take_their_quota_from_every_class(poisoning: Poisoning) -> None:
    verdict = spectral.detect(poisoning.task, poisoning.victims, seed=0, device=CPU)
    assert verdict.accused == frozenset(range(6))


def test_abl_finds_what_is_learnt_first() -> None:
    # Labels of the rest are drawn at random, so that nothing but the trigger can be learnt.
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (320, 16, 16, 3), dtype=np.uint8)
    labels, is_poisoned = rng.integers(0, 4, 320), np.arange(320) < 64
    images[is_poisoned, 5:11, 5:11] = CHECKERS
    labels[is_poisoned] = 1
    victims = Victims(NetworkSettings(width=8, abl_epochs=4, batch_size=32, lr=0.05))
    verdict = abl.detect(Task(images, labels, 4, ratio=0.2), victims, seed=0, device=CPU)
    assert verdict.is_flagged.sum() == 64
    assert (verdict.is_flagged & is_poisoned).sum() > 50
    assert verdict.settings["training"]["epochs"] == 4


def test_strip_flags_about_the_share_of_clean_samples_that_it_is_set_to(poisoning: Poisoning) -> None:
    settings = strip.Settings(overlays=3, false_rejection=0.2)
    verdict = strip.detect(poisoning.task, poisoning.victims, seed=0, device=CPU, settings=settings)
    assert 0.05 < verdict.is_flagged[~poisoning.is_poisoned].mean() < 0.4
    assert verdict.settings["used_overlays"] == 3


def test_flare_flags_whole_clusters(poisoning: Poisoning) -> None:
    bench_extra()
    from benchmarks.rivals import flare

    settings = flare.Settings(least_cluster=25)
    verdict = flare.detect(poisoning.task, poisoning.victims, seed=0, device=CPU, settings=settings)
    assert verdict.is_flagged.shape == poisoning.is_poisoned.shape
    assert verdict.is_flagged.sum() >= 25
    assert 0 <= verdict.settings["dropped_layers"] <= 8
    json.dumps(dict(verdict.settings))


def test_activation_clustering_flags_less_than_its_share_of_each_class(poisoning: Poisoning) -> None:
    bench_extra()
    verdict = methods_sharing(poisoning.victims)["activation_clustering"].detect(poisoning.task, seed=0, device=CPU)
    shares = [verdict.is_flagged[poisoning.task.labels == label].mean() for label in range(6)]
    assert max(shares) < 0.35
    assert {label for label, share in enumerate(shares) if share} == verdict.accused


def methods_sharing(victims: Victims) -> dict[str, Rival]:
    return {name: Rival(name, method.needs, victims) for name, method in METHODS.items()}


@pytest.mark.parametrize("name", ["scan", "agpd", "strip"])
def test_a_task_without_clean_samples_is_refused_before_anything_is_trained(name: str, poisoning: Poisoning) -> None:
    bare = replace(poisoning.task, clean_images=None, clean_labels=None)
    with pytest.raises(ValueError, match="expected a task with clean samples"):
        methods(NetworkSettings())[name].detect(bare, seed=0, device=CPU)


@pytest.mark.parametrize("name", ["abl", "spectral"])
def test_a_task_without_the_ratio_is_refused_before_anything_is_trained(name: str, poisoning: Poisoning) -> None:
    with pytest.raises(ValueError, match="tells its share of poison"):
        methods(NetworkSettings())[name].detect(replace(poisoning.task, ratio=None), seed=0, device=CPU)
