"""What comes out of stage 7, as data."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal

from vbdguard.report import Status
from vbdguard.training.lessons import LessonCounts

if TYPE_CHECKING:
    from torch import nn

    from vbdguard.report import ScanReport


@dataclass(frozen=True, slots=True)
class EpochResult:
    """How one epoch went, on the samples that it taught."""

    epoch: int
    """Counted from 1."""
    loss: float
    """Mean cross-entropy in nats."""
    accuracy: float
    """Share in [0, 1] predicted right, on augmented images and while the weights still moved."""
    seconds: float


@dataclass(frozen=True, slots=True)
class AttackResult:
    """What one trigger does to the test samples that it is pasted on."""

    target_label: int
    """The class that the attack aims at, as the data number it."""
    target_name: str
    trigger: Literal["extracted", "known"]
    samples: int
    """How many test samples of other classes carried it."""
    before: float | None
    """Attack success rate of the poisoned model: the share in [0, 1] put into the target class."""
    after: float
    """The same of the trained model."""


@dataclass(frozen=True, slots=True, eq=False)
class TrainingResult:
    """A trained model, what it learnt from, and how good and how safe it is."""

    model: nn.Module = field(repr=False)
    """In evaluation mode, on the device that trained it; takes normalised float images (n, 3, H, W)."""
    report: ScanReport = field(repr=False)
    """The scan that decided what was kept."""
    model_name: str
    status: Status
    """`incomplete` where something in the source could not be read, and so did not train, or where a class has a
    trigger and no flagged sample."""
    counts: LessonCounts
    epochs: tuple[EpochResult, ...]
    class_labels: tuple[int, ...]
    """(K,) the data's own number of each output of the model."""
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    """Per channel, of pixels scaled to 0..1: a batch x goes in as (x / 255 - mean) / std."""
    std: tuple[float, ...]
    clean_accuracy: float | None
    """Share in [0, 1] of the test samples that are predicted right; None without a test source."""
    clean_accuracy_before: float | None
    """The same of the poisoned model, where there was one to ask."""
    attacks: tuple[AttackResult, ...]
    settings: dict[str, Any]
    """Everything that training was told, with the device and the precision it ran in."""
    seconds: dict[str, float]
    """Wall-clock seconds of `scan`, `training`, `evaluation` and in `total`."""

    @property
    def attack_success_rate(self) -> float | None:
        """Share in [0, 1] of all triggered test samples that reach the attack's target; None if none was tried."""
        tried = sum(attack.samples for attack in self.attacks)
        return sum(attack.after * attack.samples for attack in self.attacks) / tried if tried else None

    @property
    def attack_success_rate_before(self) -> float | None:
        """The same of the poisoned model, where there was one to ask."""
        asked = [(attack.before, attack.samples) for attack in self.attacks if attack.before is not None]
        tried = sum(samples for _, samples in asked)
        return sum(rate * samples for rate, samples in asked) / tried if tried else None

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the model and the scan's report, JSON-ready."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("model", "report")}
        body = values | {
            "counts": asdict(self.counts),
            "epochs": [asdict(epoch) for epoch in self.epochs],
            "attacks": [asdict(attack) for attack in self.attacks],
            "attack_success_rate": self.attack_success_rate,
            "attack_success_rate_before": self.attack_success_rate_before,
            "skipped": len(self.report.skipped),
            "dataset_digest": self.report.dataset.digest,
            "verdict": self.report.verdict,
        }
        as_json: dict[str, Any] = json.loads(json.dumps(body, allow_nan=False))
        return as_json
