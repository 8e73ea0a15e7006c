"""A second proof for preset `default`: flagged samples must be strangers in their class.

Not in the paper. A trigger is pasted on other classes' images, so a model that has seen no flagged
sample takes most of them for something else. A natural pattern that a class shares, such as a green
background of frogs, sits on samples that belong there. The published stages 2 and 4 cannot tell the
two apart: on unpoisoned CIFAR-10 they declare a class poisoned.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from scipy.stats import binom
from torch import Tensor

from vbdguard.config import EnsembleConfig, LabelCheckConfig
from vbdguard.method.ensemble import fit_ensemble, predict
from vbdguard.method.samples import Samples
from vbdguard.method.simple_model import SimpleModel
from vbdguard.progress import Silent


@dataclass(frozen=True, slots=True)
class LabelAgreement:
    """How often a model that saw no flagged sample predicts the class's label."""

    flagged: float
    """Share in [0, 1] among the flagged samples of the class."""
    kept: float
    """Share in [0, 1] among its other samples."""
    p_value: float
    """Chance of so little agreement among the flagged if they were like `max_ratio` times the kept."""
    is_stranger: bool


def fit_content_model(
    samples: Samples, is_flagged: Tensor, ensemble: EnsembleConfig, config: LabelCheckConfig, *, seed: int
) -> SimpleModel:
    """Return a simple model trained on the samples that are not flagged, bool (N,)."""
    settings = replace(ensemble, architectures=(config.architecture,), train_share=1.0, epochs=config.epochs)
    kept = samples.subset((~is_flagged).nonzero().squeeze(1))
    return fit_ensemble(kept, settings, seed=seed, progress=Silent()).models[0].model


def label_agreement(
    content: SimpleModel, samples: Samples, label: int, is_flagged: Tensor, config: LabelCheckConfig
) -> LabelAgreement:
    """Return how well a class's flagged and kept samples fit their label.

    Args:
        content: from `fit_content_model`.
        samples: the training set.
        label: the class.
        is_flagged: bool (N,); at least one sample of the class is set.
        config: settings of the check.
    """
    members = samples.members(label)
    agrees = predict(content, samples.images[members]).argmax(1) == label
    flagged, kept = agrees[is_flagged[members]], agrees[~is_flagged[members]]
    expected = float(kept.float().mean()) if len(kept) else 1.0
    p_value = float(binom.cdf(int(flagged.sum()), len(flagged), config.max_ratio * expected))
    return LabelAgreement(
        flagged=float(flagged.float().mean()),
        kept=expected,
        p_value=p_value,
        is_stranger=p_value < config.significance,
    )
