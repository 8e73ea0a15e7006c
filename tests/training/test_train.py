"""train_clean() with nothing replaced: real images, a real backdoor, real training."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import nn

import vbdguard
from vbdguard.errors import ConfigError, SourceError, UnscannedSampleError
from vbdguard.training.train import train_clean


def test_the_backdoor_that_an_unguarded_training_learns_is_not_learnt(trained: tuple[Any, Path]) -> None:
    result, _ = trained
    assert result.attack_success_rate_before > 0.9
    assert result.attack_success_rate < 0.03
    assert result.clean_accuracy > 0.85
    assert result.clean_accuracy > result.clean_accuracy_before - 0.05


def test_the_result_says_what_was_done(trained: tuple[Any, Path], poisoned_set: Any) -> None:
    result, folder = trained
    flagged = len(poisoned_set.report.flagged)
    assert (result.counts.kept, result.counts.left_out) == (1000 - flagged, flagged)
    assert [epoch.epoch for epoch in result.epochs] == [1, 2, 3, 4, 5, 6]
    assert result.epochs[-1].loss < result.epochs[0].loss
    assert [(a.target_label, a.trigger, a.samples) for a in result.attacks] == [(0, "known", 180)]
    assert not result.model.training
    body = result.to_dict()
    assert json.loads(json.dumps(body)) == body
    assert body["attack_success_rate"] == result.attack_success_rate
    assert body["dataset_digest"] == poisoned_set.report.dataset.digest
    assert list(result.seconds) == ["scan", "comparison", "training", "exam", "total"]
    with safe_open(folder / "model.safetensors", "pt") as file:
        assert json.loads(file.metadata()["mean"]) == list(result.mean)


def test_weights_and_normalisation_are_all_that_a_user_needs(trained: tuple[Any, Path], store: Any) -> None:
    result, _ = trained
    images = torch.from_numpy(store.gather(np.arange(1000))).permute(0, 3, 1, 2) / 255
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (result.mean, result.std))
    with torch.no_grad():
        predicted = result.model((images - mean) / std).argmax(1).numpy()
    # flagged samples bear class 0 and were not learnt
    assert (predicted == store.labels).mean() > 0.8


def test_equal_arguments_give_equal_weights(trained: tuple[Any, Path], poisoned_set: Any) -> None:
    torch.random.manual_seed(99)
    again = train_clean(poisoned_set.train, **poisoned_set.options)
    weights = trained[0].model.state_dict()
    assert all(torch.equal(weight, weights[name]) for name, weight in again.model.state_dict().items())
    assert (again.clean_accuracy, again.attacks, again.attack_success_rate) == (None, (), None)


def test_relabelled_samples_teach_their_true_class(poisoned_set: Any) -> None:
    options = {**poisoned_set.options, "policy": "relabel"}
    result = train_clean(poisoned_set.train, **options, test_source=poisoned_set.test)
    assert result.counts.relabelled > 90
    assert result.attack_success_rate < 0.03
    assert result.attacks[0].trigger == "extracted"


def test_a_poisoned_model_forgets_its_backdoor(trained: tuple[Any, Path], poisoned_set: Any) -> None:
    options = {**poisoned_set.options, "policy": "unlearn", "lr": 0.01, "augment": True}
    poisoned_model = trained[1] / "unguarded"
    result = train_clean(poisoned_set.train, **options, init=poisoned_model, test_source=poisoned_set.test)
    assert result.attack_success_rate_before > 0.9
    assert result.attack_success_rate < 0.1
    assert result.clean_accuracy > result.clean_accuracy_before - 0.05
    assert result.counts.unlearnt == len(poisoned_set.report.flagged)


def test_a_module_of_the_users_is_trained_as_a_copy(poisoned_set: Any) -> None:
    mine = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 14 * 14, 4))
    before = {name: weight.clone() for name, weight in mine.state_dict().items()}
    result = train_clean(poisoned_set.train, **{**poisoned_set.options, "model": mine, "epochs": 2, "lr": 0.01})
    assert result.model_name == "Sequential"
    assert result.epochs[1].accuracy > result.epochs[0].accuracy
    assert all(torch.equal(weight, before[name]) for name, weight in mine.state_dict().items())


def test_a_torchvision_model_by_name_trains(poisoned_set: Any) -> None:
    options = {**poisoned_set.options, "model": "shufflenet_v2_x0_5", "epochs": 1, "batch_size": 64}
    assert train_clean(poisoned_set.train, **options).model_name == "shufflenet_v2_x0_5"


def test_the_data_are_scanned_where_no_report_is_given(poisoned_set: Any) -> None:
    # the fixture's scan stands in the cache: the report comes from there
    options = {**poisoned_set.options, "report": None, "epochs": 1}
    result = train_clean(poisoned_set.train, **options)
    assert result.report.from_cache
    assert result.counts.flagged == len(poisoned_set.report.flagged)


def test_without_a_cache_nothing_is_left_behind(poisoned_set: Any, own_cache: Path, tmp_path: Path) -> None:
    options = {**poisoned_set.options, "epochs": 1, "cache_dir": None}
    train_clean(poisoned_set.train, **options, use_cache=False)
    assert list(own_cache.iterdir()) == []


def test_data_that_changed_since_the_scan_do_not_train(poisoned_set: Any) -> None:
    with pytest.raises(UnscannedSampleError, match="expected the 1000 samples of the report .* got 240"):
        train_clean(poisoned_set.test, **poisoned_set.options)


def test_a_class_with_a_trigger_and_no_flagged_sample_is_called_incomplete(
    poisoned_set: Any, caplog: pytest.LogCaptureFixture
) -> None:
    classes = tuple(replace(entry, flagged=0, kept_scores=None) for entry in poisoned_set.report.classes)
    blind = replace(poisoned_set.report, flagged=(), classes=classes)
    with caplog.at_level(logging.WARNING):
        result = train_clean(poisoned_set.train, **{**poisoned_set.options, "report": blind, "epochs": 1})
    assert result.status == "incomplete"
    assert "class 0 has a trigger, but no sample of it was flagged" in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"compare": True}, "test samples are needed"),
        ({"attack": object()}, "test samples are needed"),
        ({"compare": True, "init": {}, "test_source": "x"}, "init is the model before"),
        ({"model": "resnet19"}, "did you mean resnet18"),
        ({"policy": "forget"}, "policy must be one of"),
        ({"amp": "yes"}, "amp must be"),
        ({"device": "abacus"}, "got 'abacus'"),
        ({"init": "nowhere.pt"}, "nowhere.pt: no such file"),
        ({"epochs": 0}, "epochs must be"),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, dict) else "",
)
def test_what_cannot_be_right_is_refused_before_anything_is_read(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        train_clean("not there", **options)


def test_a_source_that_is_not_there_is_an_error() -> None:
    with pytest.raises(SourceError, match="not there"):
        train_clean("not there", model="small")


def test_it_is_public() -> None:
    assert vbdguard.train_clean is train_clean
