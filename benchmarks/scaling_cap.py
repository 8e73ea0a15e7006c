"""Measure what preset `default` finds when it learns from a part of the data: quality against the cap on a class.

    python -m benchmarks.scaling_cap --data DIR --triggers DIR --cells a2o/white_square/0.2 clean \\
        --caps 500 1000 2000 --seeds 0 --threads 1 --out results/scaling_cap.jsonl

All samples are judged and scored, whichever the fit has seen. Records are those of `benchmarks.detection`, with the cap
in the method's name; a run that already stands in the file is not repeated.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from benchmarks.detection import run
from benchmarks.methods import Method, Task, Verdict
from benchmarks.plan import carry_out, make_parser, make_plan
from benchmarks.scales import Scale
from vbdguard.config import DirectMethodConfig, SampleConfig
from vbdguard.errors import ConfigError

if TYPE_CHECKING:
    import torch

_CELLS = Scale(
    cells=("a2o/white_square", "a2o/white_square/0.2", "clean"), methods=("default",), seeds=(0,), clean_seeds=(0,)
)


@dataclass(frozen=True, slots=True)
class Capped:
    """Preset `default` with a cap on the samples of a class that it learns from."""

    config: DirectMethodConfig
    needs: frozenset[str] = frozenset()

    @property
    def name(self) -> str:
        """The preset's name with the cap."""
        return f"default@per_class={self.config.sample.per_class}"

    def detect(self, data: Task, *, seed: int, device: torch.device) -> Verdict:
        """Return what stages 1 to 6 flag among all samples."""
        import torch

        from vbdguard.method.pipeline import detect
        from vbdguard.method.samples import Samples

        images, labels = torch.from_numpy(data.images).to(device), torch.from_numpy(data.labels).to(device)
        detection = detect(Samples(images, labels, data.n_classes), self.config, seed=seed)
        return Verdict(
            is_flagged=detection.is_flagged.cpu().numpy(),
            accused=frozenset(finding.label for finding in detection.classes if finding.is_poisoned),
            seconds=detection.seconds,
            settings=asdict(self.config),
        )


def capped(caps: list[int]) -> dict[str, Method]:
    """Return preset `default` under each cap, by name.

    Raises:
        ConfigError: if a cap leaves too little to learn from.
    """
    whole = DirectMethodConfig()
    methods = [Capped(replace(whole, sample=SampleConfig(per_class=cap))) for cap in caps]
    return {method.name: method for method in methods}


def main() -> None:
    """Run what the command line asks for."""
    parser = make_parser(__doc__)
    parser.add_argument("--caps", nargs="+", type=int, default=[500, 1000, 2000, 10_000], help="samples of a class")
    args = parser.parse_args()
    try:
        methods = capped(args.caps)
        plan = make_plan(args, _CELLS)
    except (ValueError, OSError, ConfigError) as error:
        parser.error(str(error))
    carry_out(plan, [*methods], lambda head, cell, plan: run(head, cell, plan, methods[head["method"]]))


if __name__ == "__main__":
    main()
