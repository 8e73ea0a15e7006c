from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from scipy.stats import binom
from torch import Tensor

from vbdguard.config import EnsembleConfig, LabelCheckConfig, MethodConfig
from vbdguard.method import label_check
from vbdguard.method.label_check import LabelAgreement, label_agreements
from vbdguard.method.samples import Samples


def agreement(samples: Samples, flagged: Tensor, mask: Tensor, method: MethodConfig, label: int = 0) -> LabelAgreement:
    assert method.label_check is not None
    return label_agreements(samples, flagged, {label: mask}, method.ensemble, method.label_check, seed=0)[label]


@pytest.fixture(scope="module")
def everywhere() -> Tensor:
    """A mask too large to paint over."""
    return torch.ones(16, 16, dtype=torch.bool)


def in_class(planted: Any) -> Tensor:
    """bool (N,): the poisoned samples that bear the target's label."""
    return planted.is_poisoned & (planted.samples.labels == planted.target)


def test_poisoned_samples_are_strangers_once_their_trigger_is_painted_over(planted: Any, method: MethodConfig) -> None:
    found = agreement(planted.samples, in_class(planted), planted.trigger.mask, method)
    assert found.is_stranger
    assert found.flagged < 0.6 * found.kept


def test_poisoned_samples_are_strangers_to_models_that_were_kept_from_them(
    planted: Any, method: MethodConfig, everywhere: Tensor
) -> None:
    found = agreement(planted.samples, in_class(planted), everywhere, method)
    assert found.is_stranger
    assert found.flagged < 0.6 * found.kept


@pytest.mark.parametrize("label", range(4))
def test_samples_of_the_class_that_look_alike_belong_there(natural: Samples, method: MethodConfig, label: int) -> None:
    """A natural pattern: the third of a class that is brightest in one corner."""
    members = natural.members(label)
    corner = natural.images[members, 13:, 13:].float().mean((1, 2, 3))
    flagged = torch.zeros(len(natural), dtype=torch.bool)
    flagged[members[corner.argsort(descending=True)[: len(members) // 3]]] = True
    mask = torch.zeros(16, 16, dtype=torch.bool)
    mask[13:, 13:] = True
    assert not agreement(natural, flagged, mask, method, label).is_stranger


def test_shares_and_p_value_are_those_of_the_predictions(
    planted: Any, method: MethodConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictions: list[Tensor] = []
    across = label_check._predict_across_halves

    def listening(*arguments: Any) -> Tensor:
        predictions.append(across(*arguments))
        return predictions[-1]

    monkeypatch.setattr(label_check, "_predict_across_halves", listening)
    flagged = in_class(planted)
    found = agreement(planted.samples, flagged, planted.trigger.mask, method)
    rows = list(zip(planted.samples.labels.tolist(), flagged.tolist(), predictions[0].tolist(), strict=True))
    hits = [predicted == 0 for label, is_flagged, predicted in rows if label == 0 and is_flagged]
    kept = [predicted == 0 for label, is_flagged, predicted in rows if label == 0 and not is_flagged]
    assert found.flagged == pytest.approx(sum(hits) / len(hits))
    assert found.kept == pytest.approx(sum(kept) / len(kept))
    chance = sum(binom.pmf(k, len(hits), sum(kept) / len(kept)) for k in range(sum(hits) + 1))
    assert found.p_value == pytest.approx(chance, rel=1e-4)


@pytest.mark.parametrize(
    ("change", "is_stranger"),
    [({}, True), ({"significance": 0.0}, False)],
)
def test_strangers_agree_both_seldom_and_too_seldom_for_chance(
    planted: Any, method: MethodConfig, change: dict[str, float], is_stranger: bool
) -> None:
    assert method.label_check is not None
    strict = replace(method, label_check=replace(method.label_check, **change))
    assert agreement(planted.samples, in_class(planted), planted.trigger.mask, strict).is_stranger is is_stranger


@pytest.mark.parametrize(("own_share", "is_stranger"), [(1 / 2, True), (1 / 10, False)])
def test_the_fewer_the_classes_the_more_own_samples_an_attack_may_hold(own_share: float, is_stranger: bool) -> None:
    """With two classes half of an attacker's samples bear their true label: 65 % agreement is then suspiciously low."""
    flagged, kept = torch.arange(100) < 65, torch.arange(100) < 95
    found = label_check._agreement(flagged, kept, 0.05, own_share, LabelCheckConfig())
    assert found.if_poisoned == pytest.approx(own_share * 0.95 + (1 - own_share) * 0.05)
    assert found.is_stranger is is_stranger


def test_few_flagged_samples_prove_nothing(planted: Any, method: MethodConfig) -> None:
    few = in_class(planted)
    few[few.nonzero().squeeze(1)[2:]] = False
    assert not agreement(planted.samples, few, planted.trigger.mask, method).is_stranger


def test_a_class_that_is_flagged_whole_is_judged_against_the_other_classes(planted: Any, method: MethodConfig) -> None:
    whole = planted.samples.labels == planted.target
    found = agreement(planted.samples, whole, planted.trigger.mask, method)
    assert 0.3 < found.kept < 1.0


def test_a_half_of_which_nothing_may_be_seen_clears_nobody(
    planted: Any, method: MethodConfig, everywhere: Tensor
) -> None:
    """All but one sample are of the class that is flagged whole: one of the two models has nothing to learn from."""
    kept = torch.cat([planted.samples.members(0)[:100], planted.samples.members(1)[:1]])
    samples = planted.samples.subset(kept)
    assert agreement(samples, samples.labels == 0, everywhere, method).is_stranger


def test_no_sample_is_judged_by_a_model_that_learned_its_label() -> None:
    """Noise under random labels, which only memory could give back."""
    noise = torch.randint(0, 256, (200, 12, 12, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    labels = torch.randint(0, 2, (200,), generator=torch.Generator().manual_seed(1))
    flagged = labels == 0
    mask = torch.zeros(12, 12, dtype=torch.bool)
    mask[0, 0] = True
    found = label_agreements(
        Samples(noise, labels, 2),
        flagged,
        {0: mask},
        EnsembleConfig(batch_size=16),
        LabelCheckConfig(architecture=(8,), epochs=30, min_steps=0),
        seed=0,
    )[0]
    # a model that had seen these labels would repeat nearly all of them; guessing stays near a half
    assert found.flagged < 0.75


def test_painting_over_takes_the_mask_with_its_border_and_leaves_the_given_images_alone(planted: Any) -> None:
    before = planted.samples.images.clone()
    blanked = label_check._blank(planted.samples, [planted.trigger.mask]).images
    assert torch.equal(planted.samples.images, before)
    assert torch.equal(blanked[:, :12], before[:, :12])
    assert torch.equal(blanked[:, :, :12], before[:, :, :12])
    painted = blanked[:, 12:, 12:].reshape(-1, 3)
    assert torch.equal(painted, painted[:1].expand_as(painted))
    expected = before[:, 12:, 12:].double().mean((0, 1, 2))
    torch.testing.assert_close(painted[0].double(), expected, rtol=0, atol=0.51)
