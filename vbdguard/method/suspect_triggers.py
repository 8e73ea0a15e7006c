"""Stages 2 and 3 of preset `default` over all classes: every trigger that some class may carry.

The images are looked at as they are, where small patches stand out, and coarse, where whole pictures do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from vbdguard.config import DirectMethodConfig
from vbdguard.method.common_trigger import Expected, Template, common_templates, expected_elsewhere
from vbdguard.method.level import Level
from vbdguard.method.mixture import Mixture, PlantedTrigger, fit_mixture, known_mixture
from vbdguard.method.rare_detail import RareDetail
from vbdguard.method.repeated_pattern import repeated_patterns
from vbdguard.method.samples import Samples
from vbdguard.method.side_by_side import side_by_side
from vbdguard.method.trigger import TriggerCandidate
from vbdguard.method.window import Window, window_at
from vbdguard.progress import Progress

LOOKS = 3
"""How often each class is looked at, at most: where it is odd, and twice where it may show what others show."""
_SAME_PLACE = 3
"""Pixels by which two windows may differ and still show the same thing."""
_NEWS = 0.5
"""Share of a further trigger's carriers that no earlier trigger of the class explains, at least."""
_WIDE_GAIN = 1000.0
"""The same in all where a trigger is wide. Its carriers are kept from the models, unless it is opaque, and natural
samples of a kind that a model never saw look like strangers to it; natural looks gained up to 560."""
_SURELY_ODD, _ODD_SHARE = 10.0, 0.01
"""Contrast scores, absolute and as a share of the highest, from which on a pixel belongs to a trigger."""
_HIDING, _OPAQUE_SHARE = 0.1, 0.5
"""Variance of carriers, as a share of that of the others, below which a pixel hides what they show, and the share of
such pixels from which on a wide trigger is opaque."""
_COMMON_GAIN, _FEWEST_SHARING = 200.0, 3
"""Log-likelihood (nats) from which on a trigger is looked for in all classes, and how many of them must then show it to
be worth a second look."""
_LEAST_COMMON_GAIN = 8.0
"""Log-likelihood (nats) that is enough where many classes show the same trigger."""
_FEWEST_BESIDE = 10
"""Samples of a class without a trigger that tell what its carriers have in common beside them, at least."""
_MUCH_BEYOND = 0.1
"""Share of the odd pixels that may lie beyond the margin of a small trigger."""
_CHUNK = 256


class Trace(Protocol):
    """Tells the carriers of a trigger from other samples of its class."""

    def logits(self, images: Tensor, indices: Tensor) -> Tensor:
        """Return the posterior log-odds of some of uint8 (N, H, W, C) images, float32 (n,)."""


@dataclass(frozen=True, slots=True)
class Suspect:
    """A trigger of a class, and how sure each sample of the class is to carry it."""

    label: int
    members: Tensor
    """int64 (n,), of the samples that the fit looks at."""
    level: Level
    """At which size it is seen."""
    planted: PlantedTrigger
    """In the pixels of that size."""
    window: Window
    """Where stage 3 looked."""
    logits: Tensor
    """float32 (n,): posterior log-odds of the members."""
    gain: float
    """Log-likelihood (nats) that the trigger explains."""
    trace: Trace
    """What the log-odds come from; it judges other samples of the class as well."""
    extent: Tensor
    """bool (H, W): what must be painted over so that nobody sees the trigger."""
    is_wide: bool
    """Whether painting it over would hide much of the image."""
    is_painted: bool
    """Whether it is painted over: where it is not wide, and where it hides what is below anyhow."""
    kin: int | None = None
    """Which of the triggers that several classes may share it is, if any."""
    is_common: bool = False
    """Whether so many classes show the trigger that it was looked for as it is."""

    @property
    def purity(self) -> float:
        """Expected share, in [0.5, 1], of those more likely than not to carry the trigger that do."""
        posterior = self.logits.sigmoid()
        carriers = posterior[posterior > 0.5]
        return float(carriers.mean()) if len(carriers) else 1.0

    @property
    def trigger(self) -> TriggerCandidate:
        """The trigger in the pixels of the whole images."""
        return self.level.enlarged(self.planted.trigger)

    def explains_enough(self, config: DirectMethodConfig) -> bool:
        """Return whether its log-likelihood is worth a suspicion: little is enough where many classes show the same."""
        return self.gain >= (_LEAST_COMMON_GAIN if self.is_common else config.mixture.min_gain)

    def is_sharp(self, gain: float) -> bool:
        """Return whether the trigger explains at least so many nats for each sample that carries it."""
        return self.gain >= gain * float(self.logits.sigmoid().sum())

    def flagged_among(self, n: int) -> NDArray[np.bool_]:
        """Return bool (n,): which of n samples carry the trigger more likely than not."""
        is_flagged = np.zeros(n, dtype=np.bool_)
        is_flagged[self.members[self.logits > 0].cpu().numpy()] = True
        return is_flagged

    def would_be_sure(self, images: Tensor, indices: NDArray[np.intp], log_odds: float) -> NDArray[np.bool_]:
        """Return bool (n,): which of some of uint8 (N, H, W, C) images would be sure carriers if they carried it."""
        sure = []
        for chunk in torch.from_numpy(indices).to(images.device).split(_CHUNK):
            stamped = self.trigger.paste(images[chunk], self.planted.blend_factor)
            sure.append(self.trace.logits(stamped, torch.arange(len(chunk), device=images.device)) > log_odds)
        return torch.cat(sure).cpu().numpy() if sure else np.zeros(0, dtype=np.bool_)


def find_suspect_triggers(
    samples: Samples, levels: list[Level], config: DirectMethodConfig, seed: int, progress: Progress
) -> list[Suspect]:
    """Return what each class seems to carry; progress gets `LOOKS` steps for each class."""

    def at_odd_places(label: int) -> list[Suspect]:
        found: list[Suspect] = []
        for level in levels:
            seen: dict[bool, list[Window]] = {True: [], False: []}
            for place in level.places.get(label, ()):
                window = window_at(place.row, place.column, level.side, level.samples.image_shape[:2])
                # What many show at a place tells nothing of what few show there.
                alike = seen[place.is_rare]
                if not level.is_coarse and any(window.overlaps(earlier, _SAME_PLACE) for earlier in alike):
                    continue
                rare = level.rare if place.is_rare else None
                suspect = _suspect_at(samples, level, label, window, config, seed, rare=rare)
                if suspect is not None:
                    alike.append(window)
                    found.append(suspect)
        return found

    by_class = side_by_side(at_odd_places, range(samples.n_classes), device=samples.device, progress=progress)
    repeated = _repeated(levels[0], config)
    templates = _shared_templates(by_class, repeated)
    by_class = _with_those_elsewhere(samples, levels[0], by_class, templates, config, seed, progress)
    # What the first look found shows a trigger that classes share better to a second.
    shared = [template for template in _shared_templates(by_class, repeated) if len(template.labels) >= _FEWEST_SHARING]
    if shared:
        by_class = _with_those_elsewhere(samples, levels[0], by_class, shared, config, seed, progress)
        templates = _shared_templates(by_class, repeated)
    else:
        progress.advance(samples.n_classes)

    def whole(label: int) -> list[Suspect]:
        whole = (_with_kin(_with_extent(suspect, config), templates) for suspect in by_class[label])
        return [suspect for suspect in whole if not suspect.is_wide or suspect.gain >= _WIDE_GAIN]

    found = side_by_side(whole, range(samples.n_classes), device=samples.device)
    return [suspect for of_one in found for suspect in of_one]


def _with_those_elsewhere(
    samples: Samples,
    level: Level,
    by_class: list[list[Suspect]],
    templates: list[Template],
    config: DirectMethodConfig,
    seed: int,
    progress: Progress,
) -> list[list[Suspect]]:
    """Return the suspects of each class, and those that show one of the templates at another place."""
    expected = expected_elsewhere(templates, level)

    def of_class(label: int) -> list[Suspect]:
        found = list(by_class[label])
        for place in expected.get(label, ()):
            suspect = _suspect_at(samples, level, label, place.window, config, seed, place)
            found += [] if suspect is None else [suspect]
        return _distinct(found)

    return side_by_side(of_class, range(samples.n_classes), device=samples.device, progress=progress)


def _suspect_at(
    samples: Samples,
    level: Level,
    label: int,
    window: Window,
    config: DirectMethodConfig,
    seed: int,
    expected: Expected | None = None,
    *,
    rare: RareDetail | None = None,
) -> Suspect | None:
    """Return what a class carries at a place, if it explains enough; `fit_mixture` says what it may begin with."""
    own = samples.members(label)
    if len(own) < config.mixture.min_carriers:
        return None
    view = level.view(own, other_samples(samples, label, config.mixture.others, seed), label, window)
    if expected is not None and expected.is_common:
        known = _suspect(label, own, level, known_mixture(view, expected.shift))
        known = replace(known, is_common=True)
        return known if known.explains_enough(config) else None
    mixture = fit_mixture(view, config.mixture, None if expected is None else expected.shift, rare=rare)
    if mixture is None or mixture.gain < level.least_gain(mixture, config):
        return None
    return _suspect(label, own, level, mixture)


def _shared_templates(by_class: list[list[Suspect]], repeated: Sequence[Template] = ()) -> list[Template]:
    """Return what one suspect shows clearly, or several together, or the classes' mean images."""
    suspects = (suspect for of_one in by_class for suspect in of_one)
    shown = [_template(suspect) for suspect in suspects if not suspect.level.is_coarse]
    return common_templates([*shown, *repeated], _COMMON_GAIN)


def _repeated(level: Level, config: DirectMethodConfig) -> list[Template]:
    contrasts, counts = level.means.against_others(), level.means.counts
    return repeated_patterns(contrasts, counts, config.contrast.side, level.natural_share)


def _template(suspect: Suspect) -> Template:
    background = suspect.level.means.without(suspect.label)
    carriers = float(suspect.logits.sigmoid().sum())
    return Template.of(suspect.planted, background, carriers, suspect.gain, suspect.label)


def _with_kin(suspect: Suspect, templates: list[Template]) -> Suspect:
    if suspect.level.is_coarse:
        return suspect
    own = _template(suspect)
    alike = (i for i, template in enumerate(templates) if own.is_like(template))
    return replace(suspect, kin=next(alike, None))


def other_samples(samples: Samples, label: int, most: int, seed: int) -> Tensor:
    """Return up to `most` samples of other classes, int64 (m,), ascending, the same for every stage."""
    generator = torch.Generator().manual_seed(seed)
    others = (samples.labels != label).nonzero().squeeze(1)
    drawn = torch.randperm(len(others), generator=generator)[:most].sort().values
    return others[drawn.to(others.device)]


def _suspect(label: int, members: Tensor, level: Level, mixture: Mixture) -> Suspect:
    logits = torch.from_numpy(mixture.posterior).to(members.device).logit(eps=1e-9).float()
    extent = level.enlarged(mixture.planted.trigger).mask
    return Suspect(
        label=label,
        members=members,
        level=level,
        planted=mixture.planted,
        window=mixture.window,
        logits=logits,
        gain=mixture.gain,
        trace=mixture.trace,
        extent=extent,
        is_wide=level.is_coarse,
        is_painted=not level.is_coarse,
    )


def _distinct(suspects: list[Suspect]) -> list[Suspect]:
    """Return the suspects of one class that each explain samples which those with more gain do not."""
    chosen: list[Suspect] = []
    for suspect in sorted(suspects, key=lambda found: -found.gain):
        if all(_explained(suspect, earlier) < 1 - _NEWS for earlier in chosen):
            chosen.append(suspect)
    return chosen


def _explained(suspect: Suspect, by: Suspect) -> float:
    """Return the share of a suspect's carriers that carry another trigger as well; 1 for itself, however faint."""
    posterior = suspect.logits.sigmoid()
    return float((posterior * by.logits.sigmoid()).sum() / posterior.square().sum())


def _with_extent(suspect: Suspect, config: DirectMethodConfig) -> Suspect:
    """Return the suspect with all of the image that its carriers have in common, which may reach beyond the window."""
    level, extent = suspect.level, suspect.extent
    carries = suspect.logits > 0
    if 0 < int(carries.sum()) <= len(carries) - _FEWEST_BESIDE:
        shown, usual = (_mean_image(level.samples.images, suspect.members[chosen]) for chosen in (carries, ~carries))
        scores = level.usual.scores(shown - usual, suspect.label)
        # Few carriers have a noisier mean than the whole class, by whose contrasts the scores are scaled.
        noise = float(level.means.counts[suspect.label]) / int(carries.sum())
        is_odd = scores > max(_SURELY_ODD * noise, _ODD_SHARE * float(scores.max()))
        if not level.is_coarse:
            is_odd = _beyond_margin(is_odd, extent, level.usual.side)
        extent = extent | (F.interpolate(is_odd[None, None].float(), level.image_size)[0, 0] > 0)
    if float(extent.float().mean()) <= config.label_check.max_blanked:
        return replace(suspect, extent=extent, is_wide=False, is_painted=True)
    hidden = _hidden_below(suspect)
    if int((hidden & extent).sum()) < _OPAQUE_SHARE * int(extent.sum()):
        return replace(suspect, extent=extent, is_wide=True, is_painted=False)
    extent = hidden | _beyond_margin(extent, hidden, suspect.level.usual.side)
    is_painted = float(extent.float().mean()) <= config.label_check.max_opaque
    return replace(suspect, extent=extent, is_wide=True, is_painted=is_painted)


def _hidden_below(suspect: Suspect) -> Tensor:
    """Return the pixels, bool (H, W), in which carriers vary so little that their content cannot be seen."""
    level, carries = suspect.level, suspect.logits > 0
    if not 1 < int(carries.sum()) < len(carries) - 1:
        return torch.zeros_like(suspect.extent)
    of_carriers, usual = (_variance(level.samples.images, suspect.members[chosen]) for chosen in (carries, ~carries))
    is_hidden = (of_carriers < _HIDING * usual).float()
    return F.interpolate(is_hidden[None, None], level.image_size)[0, 0] > 0


def _variance(images: Tensor, indices: Tensor) -> Tensor:
    """Return the variance of each pixel, over all colours, double (H, W)."""
    squares = torch.stack([images[chunk].long().square().sum(0) for chunk in indices.split(_CHUNK)]).sum(0)
    return (squares.double() / len(indices) - _mean_image(images, indices).square()).sum(2)


def _beyond_margin(is_odd: Tensor, mask: Tensor, side: int) -> Tensor:
    """Return the odd pixels whose windows hold none of the mask, bool (H, W); all that are odd if those are many.

    One odd pixel makes all windows odd that hold it, which for a small patch is a margin of several times its area. A
    picture is odd beyond the mask's margin, and then no margin can be told from its calm parts.
    """
    margin = F.max_pool2d(mask[None, None].float(), side, stride=1, padding=side // 2)[0, 0] > 0
    beyond = is_odd & ~margin
    return is_odd if int(beyond.sum()) > _MUCH_BEYOND * int(is_odd.sum()) else beyond


def _mean_image(images: Tensor, indices: Tensor) -> Tensor:
    sums = torch.stack([images[chunk].sum(0, dtype=torch.int64) for chunk in indices.split(_CHUNK)]).sum(0)
    return sums.double() / len(indices)
