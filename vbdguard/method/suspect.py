"""A trigger that a class seems to carry, as the stages of preset `default` hand it on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vbdguard.config import DirectMethodConfig
from vbdguard.method.blind_models import BlindFits
from vbdguard.method.level import Level
from vbdguard.method.mixture import Mixture
from vbdguard.method.planted import PlantedTrigger
from vbdguard.method.samples import Samples
from vbdguard.method.trigger import TriggerCandidate
from vbdguard.method.window import Window

_LEAST_COMMON_GAIN = 8.0
"""Log-likelihood (nats) that is enough where many classes show the same trigger."""
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
    left_below: float = 1.0
    """Share of the usual standard deviation that is left of its carriers' content, where it hides too much of the image
    to be painted over; else 1."""
    kin: int | None = None
    """Which of the triggers that several classes may share it is, if any."""
    is_common: bool = False
    """Whether so many classes show the trigger that it was looked for as it is."""
    blind: BlindFits | None = None
    """What models that cannot see it make of every sample; None before stage 4."""

    @classmethod
    def of(cls, label: int, members: Tensor, level: Level, mixture: Mixture) -> Suspect:
        """Return what a mixture says of samples of a class, int64 (n,), before anybody knows how far it reaches."""
        return cls(
            label=label,
            members=members,
            level=level,
            planted=mixture.planted,
            window=mixture.window,
            logits=torch.from_numpy(mixture.posterior).to(members.device).logit(eps=1e-9).float(),
            gain=mixture.gain,
            trace=mixture.trace,
            extent=level.enlarged(mixture.planted.trigger).mask,
            is_wide=level.is_coarse,
            is_painted=not level.is_coarse,
        )

    @property
    def carriers(self) -> float:
        """Expected number of samples that carry the trigger."""
        return float(self.logits.sigmoid().sum())

    @property
    def background(self) -> Tensor:
        """Mean of the images that it may have been pasted on, at the size of its level, float64 (H, W, C)."""
        return self.level.means.without(self.label)

    @property
    def fits(self) -> BlindFits:
        """What models that cannot see it make of every sample.

        Raises:
            ValueError: if stage 4 has not looked at it.
        """
        if self.blind is None:
            raise ValueError(f"no model has looked at the suspect of class {self.label} yet")
        return self.blind

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
        return self.gain >= gain * self.carriers

    def flagged_among(self, n: int) -> NDArray[np.bool_]:
        """Return bool (n,): which of n samples carry the trigger more likely than not."""
        is_flagged = np.zeros(n, dtype=np.bool_)
        is_flagged[self.members[self.logits > 0].cpu().numpy()] = True
        return is_flagged

    def would_be_sure(self, images: Tensor, indices: NDArray[np.intp], log_odds: float) -> NDArray[np.bool_]:
        """Return bool (n,): which of some of uint8 (N, H, W, C) images would be sure carriers if they carried it."""
        sure = []
        for chunk in torch.from_numpy(indices).to(images.device).split(_CHUNK):
            stamped = self.level.seen(self.trigger.paste(images[chunk], self.planted.blend_factor))
            sure.append(self.trace.logits(stamped, torch.arange(len(chunk), device=images.device)) > log_odds)
        return torch.cat(sure).cpu().numpy() if sure else np.zeros(0, dtype=np.bool_)


def joint_gain(suspects: Iterable[Suspect]) -> float:
    """Return the log-likelihood (nats) that suspects explain together."""
    return sum(suspect.gain for suspect in suspects)


def flagged_by_none(samples: Samples, suspects: Iterable[Suspect]) -> Tensor:
    """Return bool (N,): which samples carry none of the triggers, more likely than not."""
    is_honest = torch.ones_like(samples.labels, dtype=torch.bool)
    for suspect in suspects:
        is_honest[suspect.members[suspect.logits > 0]] = False
    return is_honest
