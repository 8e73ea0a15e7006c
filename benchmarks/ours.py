"""Our own method in the bench, once per preset."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, get_args

from benchmarks.methods import Task, Verdict
from vbdguard.config import Preset, method_preset

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Ours:
    """Stages 1 to 6 with the settings of a preset; needs nothing but the data."""

    name: Preset
    needs: frozenset[str] = frozenset()

    def detect(self, data: Task, *, seed: int, device: torch.device) -> Verdict:
        """Return what stages 1 to 6 flag."""
        import torch

        from vbdguard.method.pipeline import detect
        from vbdguard.method.samples import Samples

        config = method_preset(self.name)
        images, labels = torch.from_numpy(data.images).to(device), torch.from_numpy(data.labels).to(device)
        detection = detect(Samples(images, labels, data.n_classes), config, seed=seed)
        return Verdict(
            is_flagged=detection.is_flagged.cpu().numpy(),
            accused=frozenset(finding.label for finding in detection.classes if finding.is_poisoned),
            seconds=detection.seconds,
            settings=asdict(config),
        )


OURS = {name: Ours(name) for name in get_args(Preset)}
