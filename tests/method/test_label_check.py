from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from listeners import Counting
from numpy.typing import NDArray
from scipy.stats import mannwhitneyu, norm
from torch import Tensor

from vbdguard.config import DirectMethodConfig, LabelCheckConfig
from vbdguard.method.blind_models import blind_fits, brought_out
from vbdguard.method.label_check import Membership, membership
from vbdguard.method.samples import Samples

SIGNIFICANCE = 1e-3
NOWHERE: list[Tensor] = []


def judged(
    samples: Samples, is_flagged: Tensor, masks: list[Tensor], config: LabelCheckConfig, label: int = 0
) -> Membership:
    """Return the check of one class's flagged samples; without a mask to paint over they are hidden."""
    is_hidden = torch.zeros_like(is_flagged) if masks else is_flagged
    fits = blind_fits(samples, masks, [label], is_hidden, config, seed=0)
    return membership(
        fits.log_probability[:, 0].double().numpy(),
        (samples.labels == label).numpy(),
        is_flagged.numpy(),
        ~is_flagged.numpy(),
        own_share=1 / samples.n_classes,
        significance=config.significance,
    )


def in_class(planted: Any) -> Tensor:
    """bool (N,): the poisoned samples that bear the target's label."""
    return planted.is_poisoned & (planted.samples.labels == planted.target)


def test_poisoned_samples_are_strangers_once_their_trigger_is_painted_over(
    planted: Any, method: DirectMethodConfig
) -> None:
    found = judged(planted.samples, in_class(planted), [planted.trigger.mask], method.label_check)
    assert found.is_stranger
    assert found.flagged < (found.kept + found.if_poisoned) / 2
    assert found.p_value < 1e-6


def test_poisoned_samples_are_strangers_to_models_that_were_kept_from_them(
    planted: Any, method: DirectMethodConfig
) -> None:
    found = judged(planted.samples, in_class(planted), NOWHERE, method.label_check)
    assert found.is_stranger
    assert found.p_value < 1e-6


@pytest.mark.parametrize("label", range(4))
def test_samples_of_the_class_that_look_alike_belong_there(
    natural: Samples, method: DirectMethodConfig, label: int
) -> None:
    """A natural pattern: the third of a class that is brightest in one corner."""
    members = natural.members(label)
    corner = natural.images[members, 13:, 13:].float().mean((1, 2, 3))
    flagged = torch.zeros(len(natural), dtype=torch.bool)
    flagged[members[corner.argsort(descending=True)[: len(members) // 3]]] = True
    mask = torch.zeros(16, 16, dtype=torch.bool)
    mask[13:, 13:] = True
    assert not judged(natural, flagged, [mask], method.label_check, label).is_stranger


def test_few_flagged_samples_prove_nothing(planted: Any, method: DirectMethodConfig) -> None:
    few = in_class(planted)
    few[few.nonzero().squeeze(1)[2:]] = False
    assert not judged(planted.samples, few, [planted.trigger.mask], method.label_check).is_stranger


def test_no_sample_is_judged_by_a_model_that_learned_its_label() -> None:
    """Noise under random labels, which only memory could give back."""
    noise = torch.randint(0, 256, (200, 12, 12, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    labels = torch.randint(0, 2, (200,), generator=torch.Generator().manual_seed(1))
    config = LabelCheckConfig(architecture=(8,), epochs=30, min_steps=0, batch_size=16)
    nobody = torch.zeros(200, dtype=torch.bool)
    fits = blind_fits(Samples(noise, labels, 2), NOWHERE, [0, 1], nobody, config, seed=0)
    own = fits.log_probability.gather(1, labels[:, None]).squeeze(1)
    # a model that had seen these labels would repeat nearly all of them; guessing stays near a half
    assert float((own > math.log(0.5)).float().mean()) < 0.62


def test_fits_are_log_probabilities_of_the_labels_asked_for(natural: Samples, method: DirectMethodConfig) -> None:
    nobody = torch.zeros(len(natural), dtype=torch.bool)
    listener = Counting()
    config = method.label_check
    every = blind_fits(natural, NOWHERE, [0, 1, 2, 3], nobody, config, seed=0, progress=listener).log_probability
    assert listener.steps == 2
    assert every.shape == (len(natural), 4)
    torch.testing.assert_close(every.exp().sum(1), torch.ones(len(natural)))
    some = blind_fits(natural, NOWHERE, [3, 1], nobody, config, seed=0).log_probability
    assert torch.equal(some, every[:, [3, 1]])
    # the models have learned something: the own label is likelier than a guess would have it
    assert float(every.gather(1, natural.labels[:, None]).exp().mean()) > 0.4


def test_what_is_painted_over_cannot_be_seen(planted: Any, method: DirectMethodConfig) -> None:
    """Pixels under the mask are given to other samples; the models then see the same as before."""
    samples, mask = planted.samples, planted.trigger.mask
    changed = samples.images.clone()
    changed[:, 13:, 13:] = changed[:, 13:, 13:].flip(0)
    before = samples.images.clone()
    nobody = torch.zeros(len(samples), dtype=torch.bool)
    one, other = (
        blind_fits(Samples(images, samples.labels, 4), [mask], [0], nobody, method.label_check, seed=0).log_probability
        for images in (samples.images, changed)
    )
    assert torch.equal(one, other)
    assert torch.equal(samples.images, before)


def test_what_is_left_below_a_picture_is_brought_out(natural: Samples) -> None:
    images, picture = natural.images[::3], natural.images[700].float()
    below = (0.1 * images.float() + 0.9 * picture).floor().to(torch.uint8)
    opened = brought_out(below, natural.images[1::3])
    both = torch.stack([images.flatten(), opened.flatten()]).float()
    assert float(both.corrcoef()[0, 1]) > 0.9
    assert float((images.float() - opened.float()).abs().mean()) < 20
    assert float((images.float() - below.float()).abs().mean()) > 40


def test_a_sample_below_a_picture_is_judged_by_its_content(natural: Samples, method: DirectMethodConfig) -> None:
    """Half of class 3 gets a picture, and is at home there; as many of the others get it, and are not."""
    hidden = torch.zeros(len(natural), dtype=torch.bool)
    hidden[natural.members(3)[::2]] = True
    strange = (natural.labels != 3).nonzero().squeeze(1)[::6]
    hidden[strange] = True
    carriers, images = hidden.nonzero().squeeze(1), natural.images.clone()
    images[carriers] = (0.1 * images[carriers].float() + 0.9 * natural.images[700].float()).floor().to(torch.uint8)
    samples = Samples(images, natural.labels, 4)
    for faded, is_told in (([carriers], True), ([], False)):
        fits = blind_fits(samples, NOWHERE, [3], hidden, method.label_check, faded=faded, seed=0)
        chance = fits.log_probability[:, 0].exp()
        difference = float(chance[natural.members(3)[::2]].mean() - chance[strange].mean())
        assert (difference > 0.25) == is_told
    assert torch.equal(samples.images, images)


def test_hidden_samples_are_judged_but_not_learned_from(natural: Samples, method: DirectMethodConfig) -> None:
    """With all of class 3 hidden, no model knows it: its samples look like some other class."""
    hidden = natural.labels == 3
    fits = blind_fits(natural, NOWHERE, [3], hidden, method.label_check, seed=0).log_probability[:, 0]
    assert float(fits[hidden].exp().mean()) < 0.1


def test_where_there_is_nothing_to_learn_from_all_fits_are_alike(natural: Samples, method: DirectMethodConfig) -> None:
    everybody = torch.ones(len(natural), dtype=torch.bool)
    assert not blind_fits(natural, NOWHERE, [0, 2], everybody, method.label_check, seed=0).log_probability.any()


def test_the_seed_alone_decides_the_fits_whatever_the_number_of_threads(
    natural: Samples, method: DirectMethodConfig
) -> None:
    nobody = torch.zeros(len(natural), dtype=torch.bool)
    found = []
    for seed, threads in ((0, 1), (0, 2), (1, 1)):
        torch.manual_seed(len(found))
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            found.append(blind_fits(natural, NOWHERE, [0], nobody, method.label_check, seed=seed).log_probability)
        finally:
            torch.set_num_threads(before)
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


# --- membership() on drawn numbers -----------------------------------------------------------------------------------


def drawn(
    flagged_mean: float, *, kept: int = 300, others: int = 900, flagged: int = 60, seed: int = 0
) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_]]:
    """Return fits, who bears the label and who is flagged: members fit around 0, others around -4."""
    rng = np.random.default_rng(seed)
    parts = [rng.normal(0, 1, kept), rng.normal(flagged_mean, 1, flagged), rng.normal(-4, 1, others)]
    fit = np.concatenate(parts)
    index = np.arange(len(fit))
    return fit, index < kept + flagged, (index >= kept) & (index < kept + flagged)


def check(
    fit: NDArray[np.float64],
    bears_label: NDArray[np.bool_],
    is_flagged: NDArray[np.bool_],
    *,
    own_share: float = 0.1,
    significance: float = SIGNIFICANCE,
    purity: float = 1.0,
) -> Membership:
    return membership(
        fit, bears_label, is_flagged, ~is_flagged, own_share=own_share, significance=significance, purity=purity
    )


def test_strangers_are_told_from_members() -> None:
    strangers, members = check(*drawn(-4.0)), check(*drawn(0.0))
    assert strangers.is_stranger
    assert not members.is_stranger
    assert strangers.flagged < 0.2 < 0.8 < members.flagged
    assert members.flagged == pytest.approx(members.kept, abs=0.05)


def test_members_among_the_flagged_do_not_acquit_the_rest() -> None:
    """A faint trigger is told from none badly: three of five flagged samples are honest ones, as is to be expected."""
    fit, bears_label, is_flagged = drawn(-4.0, flagged=100)
    honest = np.flatnonzero(is_flagged)[:60]
    fit[honest] = np.random.default_rng(1).normal(0, 1, len(honest))
    impure, taken_as_pure = (check(fit, bears_label, is_flagged, purity=purity) for purity in (0.4, 1.0))
    assert impure.is_stranger
    assert not taken_as_pure.is_stranger
    assert impure.flagged == pytest.approx(check(*drawn(-4.0)).flagged, abs=0.1)
    assert impure.standard_error == pytest.approx(taken_as_pure.standard_error / 0.4)
    assert impure.p_value == taken_as_pure.p_value
    assert not check(*drawn(0.0), purity=0.4).is_stranger


def test_the_p_value_is_that_of_scipy() -> None:
    fit, bears_label, is_flagged = drawn(-0.5)
    expected = mannwhitneyu(fit[is_flagged], fit[bears_label & ~is_flagged], alternative="less").pvalue
    assert check(fit, bears_label, is_flagged).p_value == pytest.approx(expected, rel=1e-9)


def test_strangers_fit_badly_enough_and_too_badly_for_chance() -> None:
    assert not check(*drawn(-4.0, flagged=1)).is_stranger
    assert not check(*drawn(-4.0), significance=0.0).is_stranger
    # significantly worse than the kept ones, and still members: a natural subgroup that is harder to see
    harder = check(*drawn(-0.7, flagged=250, kept=2000))
    assert harder.p_value < SIGNIFICANCE
    assert not harder.is_stranger


@pytest.mark.parametrize(("own_share", "is_stranger"), [(0.5, True), (0.05, False)])
def test_the_fewer_the_classes_the_more_own_samples_an_attack_may_hold(own_share: float, is_stranger: bool) -> None:
    """With two classes half of an attacker's samples belong where they are: 65 % members are then suspiciously few."""
    fit, bears_label, is_flagged = drawn(-4.0, flagged=100)
    belongs = np.flatnonzero(is_flagged)[:65]
    fit[belongs] = np.random.default_rng(1).normal(0, 1, len(belongs))
    found = check(fit, bears_label, is_flagged, own_share=own_share)
    assert found.is_stranger is is_stranger
    assert 0 <= found.if_poisoned <= found.kept <= 1


def test_the_expectation_of_poison_mixes_kept_and_others_by_the_own_share() -> None:
    all_own, none_own, half = (check(*drawn(-4.0), own_share=share) for share in (1.0, 0.0, 0.5))
    assert all_own.if_poisoned == pytest.approx(all_own.kept)
    assert none_own.if_poisoned == pytest.approx(1 - none_own.kept, abs=0.05)  # the two kinds mirror each other
    assert half.if_poisoned == pytest.approx((all_own.if_poisoned + none_own.if_poisoned) / 2)


def test_the_log_ratio_is_above_zero_for_members_and_below_for_strangers() -> None:
    fit, bears_label, is_flagged = drawn(-4.0)
    ratio = check(fit, bears_label, is_flagged).content(fit)
    assert ratio.shape == fit.shape
    assert (ratio[fit > -0.5] > 1).all()
    assert (ratio[fit < -3.5] < -1).all()


def test_the_log_ratio_is_that_of_the_densities() -> None:
    """Two normal distributions, 1.5 apart: the log-ratio is a straight line. The tails share a bin."""
    rng = np.random.default_rng(0)
    fit = np.concatenate([rng.normal(0, 1, 20_000), rng.normal(-1.5, 1, 20_000), [-0.75]])
    index = np.arange(len(fit))
    found = check(fit, (index < 20_000) | (index == 40_000), index == 40_000)
    between = (fit > -2.5) & (fit < 1)
    expected = norm.logpdf(fit, 0, 1) - norm.logpdf(fit, -1.5, 1)
    assert float(np.abs(found.content(fit) - expected)[between].mean()) < 0.2
    assert found.content(fit)[-1] == pytest.approx(0, abs=0.2)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.integers(10, 100), st.integers(10, 100), st.integers(1, 40))
def test_the_check_is_bounded_and_ignores_the_scale_of_the_fits(
    seed: int, kept: int, others: int, flagged: int
) -> None:
    fit, bears_label, is_flagged = drawn(-2.0, kept=kept, others=others, flagged=flagged, seed=seed)
    found, scaled = check(fit, bears_label, is_flagged), check(8 * fit + 3, bears_label, is_flagged)
    for share in (found.flagged, found.kept, found.if_poisoned, found.p_value):
        assert 0 <= share <= 1
    assert np.isfinite(found.content(fit)).all()
    assert scaled.is_stranger is found.is_stranger
    np.testing.assert_allclose(scaled.content(8 * fit + 3), found.content(fit), atol=1e-9)


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(40)))
def test_the_order_of_the_samples_does_not_matter(order: list[int]) -> None:
    fit, bears_label, is_flagged = drawn(-2.0, kept=15, others=15, flagged=10)
    one, other = check(fit, bears_label, is_flagged), check(fit[order], bears_label[order], is_flagged[order])
    assert (one.is_stranger, one.p_value) == (other.is_stranger, other.p_value)
    np.testing.assert_array_equal(one.content(fit)[order], other.content(fit[order]))


@pytest.mark.parametrize(("kept", "others"), [(0, 100), (9, 100), (100, 9)])
def test_without_enough_to_compare_with_the_content_says_nothing_of_any_sample(kept: int, others: int) -> None:
    fit, bears_label, is_flagged = drawn(-4.0, kept=kept, others=others)
    assert not check(fit, bears_label, is_flagged).content(fit).any()


def test_a_class_that_is_flagged_whole_is_a_class_with_a_mark() -> None:
    """Nothing of the class is left to compare with: what all its samples have in common belongs to it."""
    assert not check(*drawn(-4.0, kept=0)).is_stranger


def test_fits_that_are_all_alike_accuse_nobody() -> None:
    fit, bears_label, is_flagged = drawn(-4.0)
    fit = np.zeros_like(fit)
    found = check(fit, bears_label, is_flagged)
    assert not found.is_stranger
    np.testing.assert_allclose(found.content(fit), 0, atol=1e-9)
