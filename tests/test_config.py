from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from typing import Any

import pytest

from vbdguard.config import (
    AttackCheckConfig,
    ContrastConfig,
    DetectorConfig,
    DirectMethodConfig,
    LabelCheckConfig,
    MethodConfig,
    MixtureConfig,
    ScanConfig,
    SuspectsConfig,
    WindowDetectorConfig,
    method_preset,
)
from vbdguard.errors import ConfigError, VBDGuardError


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"preset": "fast"}, "preset must be one of default, paper, got 'fast'"),
        ({"seed": -1}, "seed must be 0 to 4294967295, got -1"),
        ({"seed": 2**32}, "seed must be 0 to"),
        ({"image_size": 7}, "image_size must be 8 to 512 pixels a side, got 7"),
        ({"image_size": 513}, "image_size must be 8 to 512"),
        ({"image_size": (32, 4)}, r"image_size must be 8 to 512 pixels a side, got \(32, 4\)"),
        ({"jobs": 0}, "jobs must be at least 1, got 0"),
        ({"shard_timeout": 0}, "shard_timeout must be above 0 seconds, got 0"),
        ({"shard_timeout": float("nan")}, "shard_timeout must be above 0 seconds, got nan"),
        ({"worker_memory": 511}, "worker_memory must be at least 512 MB, got 511"),
    ],
)
def test_a_setting_that_cannot_be_right_is_named_with_its_range(settings_: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        ScanConfig(**settings_)
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, VBDGuardError)


@pytest.mark.parametrize("settings_", [{"seed": 2**32 - 1}, {"image_size": 8}, {"image_size": (512, 8)}, {"jobs": 1}])
def test_the_ends_of_the_ranges_are_allowed(settings_: dict[str, Any]) -> None:
    ScanConfig(**settings_)


@pytest.mark.parametrize(("given", "expected"), [(None, None), (48, (48, 48)), ((32, 64), (32, 64))])
def test_one_number_means_a_square(given: Any, expected: tuple[int, int] | None) -> None:
    assert ScanConfig(image_size=given).canonical_size == expected


def test_a_preset_is_resolved_and_written_down_in_full() -> None:
    for preset in ("default", "paper"):
        config = ScanConfig(preset=preset)  # type: ignore[arg-type]
        assert config.method == method_preset(preset)  # type: ignore[arg-type]
        assert config.result_settings()["method"]["detector"]["epochs"] == config.method.detector.epochs


def test_settings_of_ones_own_win_over_the_preset() -> None:
    assert ScanConfig(method=MethodConfig(suspects=SuspectsConfig(top=7))).method == MethodConfig(
        suspects=SuspectsConfig(top=7)
    )
    own = DirectMethodConfig(label_check=LabelCheckConfig(epochs=7))
    assert ScanConfig(preset="paper", method=own).result_settings()["method"]["label_check"]["epochs"] == 7


def test_presets_name_two_methods() -> None:
    assert method_preset("default") == DirectMethodConfig()
    assert method_preset("paper") == MethodConfig()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ContrastConfig(side=4), "side must be odd and at least 3, got 4"),
        (lambda: ContrastConfig(side=1), "side must be odd and at least 3, got 1"),
        (lambda: ContrastConfig(natural_share=0), "natural_share must be above 0 and at most 1, got 0"),
        (lambda: WindowDetectorConfig(max_side=5), "max_side must be at least 6, got 5"),
        (lambda: WindowDetectorConfig(threshold=1.5), "threshold must be 0 to 1, got 1.5"),
        (lambda: WindowDetectorConfig(margin=3), "margin must be at least 4, got 3"),
        (lambda: WindowDetectorConfig(thorough_epochs=0), "thorough_epochs must be at least 1, got 0"),
        (lambda: MixtureConfig(rounds=0), "rounds must be at least 1, got 0"),
        (lambda: MixtureConfig(side=2), "side must be at least 3, got 2"),
        (lambda: LabelCheckConfig(rounds=0), "rounds must be at least 1, got 0"),
        (lambda: ContrastConfig(places=-1), "places must be at least 1, got -1"),
        (lambda: DirectMethodConfig(coarse_side=1), "coarse_side must be at least 6, got 1"),
        (lambda: DetectorConfig(epochs=0), "epochs must be at least 1, got 0"),
        (lambda: WindowDetectorConfig(blend_slack=(1.2, 0.8)), "blend_slack must be two rising numbers above 0"),
        (lambda: DetectorConfig(blend_range=(0.5, 1.2)), "blend_range must be two rising numbers above 0, at most 1"),
        (lambda: SuspectsConfig(top=4), "min_top must be 2 to top"),
    ],
)
def test_a_setting_of_a_stage_that_cannot_be_right_is_named(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


def test_a_thorough_detector_learns_longer_and_from_more_the_more_places_it_looks_at() -> None:
    detector = WindowDetectorConfig(epochs=3, thorough_epochs=8, thorough_others=1000, per_place=200)
    alone, many = detector.thorough(), detector.thorough(30)
    assert (alone.epochs, alone.thorough_others) == (8, 1000)
    assert (many.epochs, many.thorough_others) == (8, 6000)


def test_each_method_says_how_many_samples_a_class_must_have() -> None:
    assert method_preset("default").fewest_in_class == 10
    assert MethodConfig(suspects=SuspectsConfig(min_top=3)).fewest_in_class == 6


def test_the_paper_preset_is_the_published_experiment() -> None:
    """Paper, section 4.1, and the configuration that its authors published."""
    paper = MethodConfig()
    ensemble = paper.ensemble
    assert ensemble.architectures == ((64,), (10, 10), (16, 16))
    assert (ensemble.train_share, ensemble.epochs) == (0.8, 20)
    assert (ensemble.lr, ensemble.momentum, ensemble.weight_decay) == (0.01, 0.9, 5e-4)
    assert paper.suspects == SuspectsConfig(top=20, min_top=5, significance=0.01)
    assert paper.attack_check == AttackCheckConfig(share=0.1, min_success_rate=0.33, accuracy_weight=0.6)
    detector = paper.detector
    assert isinstance(detector, DetectorConfig)
    assert (detector.filters, detector.dropout, detector.epochs, detector.batch_size) == (32, 0.5, 20, 256)
    assert (detector.lr, detector.momentum, detector.weight_decay) == (0.01, 0.9, 5e-4)
    assert (detector.blend_range, detector.pseudo_first, detector.pseudo_last) == ((0.2, 1.0), 6, 12)
    assert (detector.min_accuracy, detector.threshold) == (0.75, 0.5)


@pytest.mark.parametrize(
    ("shape", "n", "expected"),
    [((32, 32, 3), 40_000, 256), ((64, 64, 3), 40_000, 64), ((32, 96, 3), 40_000, 64), ((32, 32, 3), 100, 100)],
)
def test_the_paper_preset_batches_as_published(shape: tuple[int, int, int], n: int, expected: int) -> None:
    assert MethodConfig().ensemble.batch(shape, n) == expected
    assert MethodConfig().ensemble.epochs == 20


def test_result_settings_are_json_and_leave_out_what_changes_no_result() -> None:
    config = ScanConfig(jobs=3, shard_timeout=9, worker_memory=1000, seed=5, device="cpu", image_size=48)
    body = config.result_settings()
    assert json.loads(json.dumps(body)) == json.loads(json.dumps(ScanConfig(image_size=(48, 48)).result_settings()))
    assert not body.keys() & {"jobs", "shard_timeout", "worker_memory", "seed", "device"}
    assert body["image_size"] == [48, 48]
    assert ScanConfig().result_settings()["image_size"] is None


@pytest.mark.parametrize("change", [{"preset": "paper"}, {"image_size": 16}, {"label_key": "json"}])
def test_result_settings_tell_apart_what_changes_a_result(change: dict[str, Any]) -> None:
    assert ScanConfig(**change).result_settings() != ScanConfig().result_settings()


def test_reading_jobs_are_those_asked_for_or_one_per_core() -> None:
    assert ScanConfig(jobs=3).reading_jobs == 3
    assert ScanConfig().reading_jobs >= 1


def test_a_config_is_fixed_comparable_and_can_be_sent_to_a_worker() -> None:
    config = ScanConfig(seed=3)
    assert config == ScanConfig(seed=3) != ScanConfig(seed=4)
    assert pickle.loads(pickle.dumps(config)) == config
    with pytest.raises(FrozenInstanceError):
        config.seed = 4  # type: ignore[misc]
