"""Stage 4 over many suspects: who is looked into, in which order, and what is told as a mark."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import Tensor

from vbdguard.config import DirectMethodConfig, LabelCheckConfig
from vbdguard.method.kin_judgement import Judged
from vbdguard.method.label_check import NO_RATIO, Membership
from vbdguard.method.level import Level, image_levels
from vbdguard.method.mixture_trace import MixtureTrace
from vbdguard.method.planted import PlantedTrigger
from vbdguard.method.population import Population
from vbdguard.method.samples import Samples
from vbdguard.method.strangers import _artefacts, _strangers_and_kin, find_strangers
from vbdguard.method.suspect import Suspect
from vbdguard.method.trigger import TriggerCandidate
from vbdguard.method.window import Window
from vbdguard.progress import Silent

SIDE, CLASSES = 16, 6
CONFIG = DirectMethodConfig(label_check=LabelCheckConfig(architecture=(4,), epochs=1, min_steps=0))


@pytest.fixture(scope="module")
def samples() -> Samples:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (240, SIDE, SIDE, 3), dtype=torch.uint8, generator=generator)
    return Samples(images, torch.arange(240) % CLASSES, CLASSES)


@pytest.fixture(scope="module")
def levels(samples: Samples) -> list[Level]:
    return image_levels(Population.of(samples), samples, CONFIG)


def suspect(samples: Samples, level: Level, label: int, gain: float, rows: slice = slice(0, 3)) -> Suspect:
    """Return one that ten samples of a class carry, in some rows of the image."""
    mask = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    mask[rows] = True
    members = samples.members(label)
    size = level.samples.image_shape[:2]
    small = torch.ones(size, dtype=torch.bool) if level.is_coarse else mask
    return Suspect(
        label=label,
        members=members,
        level=level,
        planted=PlantedTrigger(TriggerCandidate(small, torch.full((3, *size), 255.0) * small), 0.9),
        window=Window(0, size[0], 0, size[1]),
        logits=torch.where(torch.arange(len(members)) < 10, 9.0, -9.0),
        gain=gain,
        trace=MixtureTrace(Window(0, size[0], 0, size[1]), torch.zeros(3 * size[0] * size[1]), [], 0.5),
        extent=mask,
        is_wide=False,
        is_painted=True,
    )


def looked_into(samples: Samples, suspects: list[Suspect], caplog: pytest.LogCaptureFixture) -> list[int]:
    """Return how many classes were judged, in the order of their labels."""
    with caplog.at_level("INFO", logger="vbdguard.method.strangers"):
        find_strangers(samples, suspects, CONFIG, 0, Silent())
    words = [record.getMessage() for record in caplog.records]
    left = {int(text.split()[1].rstrip(":")) for text in words if "was not looked into" in text}
    return [one.label for one in suspects if one.label not in left]


def test_louder_marks_do_not_keep_a_clear_trigger_from_being_looked_into(
    samples: Samples, levels: list[Level], caplog: pytest.LogCaptureFixture
) -> None:
    """Each covers three rows of sixteen, and only a quarter of the image can be painted over at once."""
    places = [slice(3 * i, 3 * i + 3) for i in range(5)]
    louder = [suspect(samples, levels[0], label, 900.0 - label, places[label]) for label in range(4)]
    clear = suspect(samples, levels[0], 4, 120.0, places[4])
    assert looked_into(samples, [*louder, clear], caplog) == [0, 1, 2, 3, 4]
    caplog.clear()
    assert looked_into(samples, [*louder, replace(clear, gain=60.0)], caplog) == [0, 1, 2, 3]


def test_what_classes_share_counts_for_each_of_them(
    samples: Samples, levels: list[Level], caplog: pytest.LogCaptureFixture
) -> None:
    places = [slice(3 * i, 3 * i + 3) for i in range(5)]
    alone = [suspect(samples, levels[0], label, 70.0, places[label]) for label in range(3)]
    kin = [replace(suspect(samples, levels[0], label, 40.0, places[label]), kin=0) for label in (3, 4)]
    assert looked_into(samples, [*alone, *kin], caplog) == [0, 3, 4]


def test_each_suspect_keeps_what_the_models_that_cannot_see_it_say(samples: Samples, levels: list[Level]) -> None:
    """Two triggers of one class that find no room together, on samples that are as bright as those of others."""
    bright = (samples.images // 8 + 35 * samples.labels.to(torch.uint8).view(-1, 1, 1, 1)).contiguous()
    carriers = samples.members(0)[:20]
    bright[carriers] += (35 * (1 + torch.arange(20) % 5)).to(torch.uint8).view(-1, 1, 1, 1)
    of_brightness = Samples(bright, samples.labels, CLASSES)
    one = suspect(samples, levels[0], 0, 900.0, slice(0, 4))
    other = suspect(samples, levels[0], 0, 800.0, slice(8, 12))
    other = replace(other, logits=other.logits.roll(10))
    learning = replace(CONFIG, label_check=LabelCheckConfig(architecture=(8,), epochs=30, min_steps=0, batch_size=32))
    strangers = find_strangers(of_brightness, [one, other], learning, 0, Silent()).strangers
    assert [found.gain for found in strangers] == [900.0, 800.0]
    paintings = [found.fits.models.painting.mask for found in strangers]
    assert bool(paintings[0][:4].all())
    assert not bool(paintings[0][8:12].any())
    assert bool(paintings[1][8:12].all())
    assert not bool(paintings[1][:4].any())
    with pytest.raises(ValueError, match="no model has looked at the suspect of class 0 yet"):
        _ = one.fits


def fit(flagged: float, *, is_stranger: bool = False) -> Membership:
    """Between members at 0.7 and strangers at 0.3."""
    return Membership(flagged, 0.01, 30, 0.7, 0.3, 0.5, is_stranger, NO_RATIO)


def test_a_proven_trigger_of_three_classes_goes_on_to_the_detectors_wherever_it_is(
    samples: Samples, levels: list[Level]
) -> None:
    def of(label: int, gain: float = 120.0) -> Suspect:
        return replace(suspect(samples, levels[0], label, gain), kin=0)

    proven: Judged = [(of(label), fit(0.3, is_stranger=True)) for label in range(3)]
    alike: Judged = [(of(0, 90.0), fit(0.6)), (of(3, 50.0), fit(0.6)), (of(3, 80.0), fit(0.6)), (of(4), fit(0.7))]
    chosen = [(one.label, one.gain) for one in _strangers_and_kin([*proven, *alike])]
    assert chosen == [(0, 120.0), (1, 120.0), (2, 120.0), (4, 120.0), (3, 80.0)]
    assert len(_strangers_and_kin([*proven[:2], *alike])) == 2


def test_an_artefact_is_small_sharp_on_no_strangers_and_no_trigger_of_others(
    samples: Samples, levels: list[Level]
) -> None:
    sharp = suspect(samples, levels[0], 0, 120.0)
    assert _artefacts([(sharp, fit(0.68))]) == [sharp]
    assert _artefacts([(sharp, fit(0.5))]) == []
    assert _artefacts([(sharp, replace(fit(0.5), n_flagged=12))]) == [sharp]
    assert _artefacts([(sharp, replace(fit(0.3, is_stranger=True), n_flagged=12))]) == []
    assert _artefacts([(replace(sharp, gain=60.0), fit(0.68))]) == []
    assert _artefacts([(replace(sharp, is_wide=True), fit(0.68))]) == []
    assert _artefacts([(suspect(samples, levels[1], 0, 120.0), fit(0.68))]) == []
    attack = (replace(sharp, label=1, kin=0), fit(0.3, is_stranger=True))
    assert _artefacts([attack, (replace(sharp, kin=0), fit(0.68))]) == []


def test_a_picture_below_which_nothing_is_seen_is_told_and_proves_nothing(
    samples: Samples, levels: list[Level]
) -> None:
    members = samples.members(0)
    images = samples.images.clone()
    images[members[:10]] = images[members[0]].clone()
    data = Samples(images, samples.labels, CLASSES)
    level = image_levels(Population.of(data), data, CONFIG)[0]
    picture = replace(suspect(data, level, 0, 5000.0), is_wide=True, is_painted=False, left_below=0.0)
    assert _artefacts([(picture, fit(0.3))])[0].trigger.mask.all()
    found = find_strangers(data, [picture], CONFIG, 0, Silent())
    assert found.strangers == []
    assert [one.label for one in found.artefacts] == [0]
    assert torch.equal(found.artefacts[0].trigger.pattern, images[members[0]].permute(2, 0, 1).float())


def test_a_proof_of_one_round_is_no_evidence_in_the_next(
    samples: Samples, levels: list[Level], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four classes prove together what none proves alone; four that speak against it find room only later."""
    kin = [
        replace(suspect(samples, levels[0], label, 90.0 - label, slice(4 * (label // 4), 4 * (label // 4) + 4)), kin=0)
        for label in range(6)
    ]
    seen: list[list[float]] = []

    def judged(_: Samples, suspects: list[Suspect], *__: object, **___: object) -> Judged:
        return [(one, replace(fit(0.4), p_value=0.01 * (1 + one.label))) for one in suspects]

    def heard(alone: Judged, *_: object, **__: object) -> Judged:
        seen.append([one.p_value for _, one in alone])
        return [(one, replace(found, is_stranger=True, p_value=1e-9)) for one, found in alone]

    monkeypatch.setattr("vbdguard.method.strangers.memberships", judged)
    monkeypatch.setattr("vbdguard.method.strangers.together", heard)
    find_strangers(samples, kin, CONFIG, 0, Silent())
    assert seen == [[0.01, 0.02, 0.03, 0.04], [0.01, 0.02, 0.03, 0.04, 0.05, 0.06]]


@dataclass(frozen=True)
class Brightness:
    """Takes bright images of the size of a level for carriers."""

    size: tuple[int, int]

    def logits(self, images: Tensor, indices: Tensor) -> Tensor:
        assert images.shape[1:3] == self.size
        return images[indices].float().mean((1, 2, 3)) - 200


@pytest.mark.parametrize("coarse", [False, True])
def test_who_would_be_sure_is_told_at_the_size_that_the_trace_looks_at(
    samples: Samples, levels: list[Level], coarse: bool
) -> None:
    level = levels[int(coarse)]
    whole = suspect(samples, level, 0, 120.0, slice(0, SIDE))
    whole = replace(whole, trace=Brightness(level.samples.image_shape[:2]))
    others = np.arange(50)
    assert whole.would_be_sure(samples.images, others, 2.0).all()
    faint = replace(whole, planted=replace(whole.planted, blend_factor=0.1))
    assert not faint.would_be_sure(samples.images, others, 2.0).any()
