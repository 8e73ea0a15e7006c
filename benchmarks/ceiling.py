"""The oracle ceiling of a cell: how well can anybody tell stamped from clean who knows the trigger already?

    python -m benchmarks.ceiling --data DIR --triggers DIR --cells table3 'a2a/*/0.1/*' --out results/ceiling.jsonl

A small network is told trigger, place and blend factor and looks at the trigger's surroundings only (four pixels on
each side and the trigger, 11 x 11 for a patch of 3 x 3). It learns from images of classes other than the accused, each
once as it is and once stamped, on one half of them, and is judged on the other half, then the other way round
(cross-fitting), so that it neither remembers images nor knows classes. Its F1 is the best over all thresholds, with
stamped and clean samples weighed by the share of poison among the samples that bear the class's label in the cell.
What a method can gain beyond it must come from elsewhere than the trigger: from labels that do not fit their images.

In all-to-all cells the classes measured are spread over the places; `--places` says how many. A trigger wider than the
window is seen through its middle, which is enough: such triggers have ceilings near 100.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.beyond import PATTERNLESS
from benchmarks.cells import Cell
from benchmarks.figures import CEILING
from benchmarks.machine import environment, forget_peak, peak_memory
from benchmarks.oracle import OracleSettings, cross_fitted_logits
from benchmarks.plan import Plan, carry_out, make_parser, make_plan
from benchmarks.records import Record
from benchmarks.scales import SCALES, Scale
from vbdguard.attacks.poison import Poisoned, blend
from vbdguard.attacks.triggers import Trigger, frame_trigger

_DEFAULT = Scale(cells=("table1",), methods=(CEILING,), seeds=(0,), clean_seeds=(0,))
_REFERENCE_PRIOR = 0.1


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """What the oracle says of one class's clean and stamped images, and the share of poison in the class."""

    clean: NDArray[np.float64]
    """(n,) logits of images as they are."""
    stamped: NDArray[np.float64]
    """(n,) logits of the same images with the trigger."""
    prior: float
    """Poisoned samples among those that bear the label, above 0 and below 1."""
    members: int
    """Samples that bear the label."""


def main() -> None:
    """Measure the ceilings that the command line asks for."""
    parser = make_parser(__doc__)
    parser.add_argument("--places", type=int, default=3, help="classes measured in an all-to-all cell")
    parser.add_argument("--images", type=int, default=OracleSettings().images, help="images that the oracle sees")
    args = parser.parse_args()
    settings = OracleSettings(images=args.images)
    try:
        plan = make_plan(args, SCALES.get(args.scale, _DEFAULT))
    except (ValueError, OSError) as error:
        parser.error(str(error))
    poisoned = [(cell, seed) for cell, seed in plan.cells if cell.mode != "clean"]
    plan = Plan(plan.data, plan.triggers, poisoned, plan.limit, plan.device, plan.out)
    carry_out(plan, [CEILING], lambda head, cell, plan: run(head, cell, plan, settings, args.places))


def run(head: Record, cell: Cell, plan: Plan, settings: OracleSettings, places: int) -> Record:
    """Return the record of one cell's ceiling."""
    start = time.perf_counter()
    forget_peak(plan.device)
    seed = head["seed"]
    poisoned = cell.poison(plan.data.images, plan.data.labels, plan.triggers, seed)
    kept = cell.variation.keeps(plan.data.labels, seed)
    scored = []
    accused = _spread_out(np.unique(poisoned.labels[poisoned.is_poisoned]), places)
    for label in accused:
        trigger = _trigger_of(cell, plan, poisoned, label, seed)
        members = poisoned.labels == label
        prior = float(poisoned.is_poisoned[members].mean())
        drawn = _draw_others(poisoned.original_labels, label, settings.images, seed)
        images = plan.data.images[kept[drawn]]
        clean, stamped = (
            cell.variation.finish(version) for version in (images, blend(images, trigger, cell.blend_factor))
        )
        logits = cross_fitted_logits(clean, stamped, trigger.mask, settings, seed=seed, device=plan.device)
        scored.append(Scored(*logits, prior, int(members.sum())))
    f1, precision, recall = best_f1(scored)
    at_reference = [Scored(one.clean, one.stamped, _REFERENCE_PRIOR, one.members) for one in scored]
    return {
        **head,
        "f1": round(f1, 3),
        "precision": round(precision, 3),
        "recall": round(recall, 3),
        "f1_at_10_percent": round(best_f1(at_reference)[0], 3),
        "priors": {str(label): round(one.prior, 4) for label, one in zip(accused, scored, strict=True)},
        "settings": asdict(settings),
        "seconds": {"total": round(time.perf_counter() - start, 2)},
        **peak_memory(plan.device),
        "environment": environment(str(plan.device)),
    }


def best_f1(scored: Sequence[Scored]) -> tuple[float, float, float]:
    """Return the best F1 over all thresholds, with its precision and recall, all in %.

    The classes share one threshold on the odds of poison, which each class's prior shifts as Bayes's rule says.
    """
    odds, weights, is_stamped = [], [], []
    for one in scored:
        shift = np.log(one.prior / (1 - one.prior)) if one.prior < 1 else 0.0
        for logits, mass in ((one.clean, 1 - one.prior), (one.stamped, one.prior)):
            odds.append(logits + shift)
            weights.append(np.full(len(logits), mass * one.members / len(logits)))
            is_stamped.append(np.full(len(logits), logits is one.stamped))
    score, weight, stamped = np.concatenate(odds), np.concatenate(weights), np.concatenate(is_stamped)
    order = np.argsort(-score, kind="stable")
    hits, false = np.cumsum((weight * stamped)[order]), np.cumsum((weight * ~stamped)[order])
    # Only where the score falls can a threshold lie.
    ends = np.append(np.flatnonzero(np.diff(score[order])), len(order) - 1)
    hits, false, poison = hits[ends], false[ends], hits[-1]
    f1 = 2 * hits / (hits + false + poison)
    best = int(f1.argmax())
    return 100 * f1[best], 100 * hits[best] / (hits[best] + false[best]), 100 * hits[best] / poison


def _trigger_of(cell: Cell, plan: Plan, poisoned: Poisoned, label: int, seed: int) -> Trigger:
    """Return the trigger as it lies on the poisoned samples that bear a label.

    Raises:
        ValueError: if it does not lie alike on all of them.
    """
    if cell.mode not in ("a2o", "a2a") or cell.trigger in PATTERNLESS or not cell.variation.has_fixed_trigger:
        raise ValueError(f"{cell.name}: expected a cell with one trigger at one place for each class")
    _, height, width, _ = plan.data.images.shape
    trigger = cell.trigger_among(plan.triggers)
    if cell.mode == "a2o":
        return frame_trigger(trigger, (height, width), position=cell.place(plan.triggers, (height, width), seed))
    original = np.unique(poisoned.original_labels[(poisoned.labels == label) & poisoned.is_poisoned])
    rank = int(np.searchsorted(np.unique(poisoned.original_labels), original[0]))
    return frame_trigger(trigger, (height, width), mode="all-to-all", rank=rank)


def _draw_others(labels: NDArray[np.int64], label: int, count: int, seed: int) -> NDArray[np.int64]:
    others = np.flatnonzero(labels != label)
    return np.random.default_rng(seed).permutation(others)[:count]


def _spread_out(labels: NDArray[np.int64], count: int) -> list[int]:
    """Return at most `count` of the labels, evenly spread from the first to the last."""
    places = np.unique(np.linspace(0, len(labels) - 1, min(count, len(labels))).round().astype(int))
    return [int(labels[place]) for place in places]


if __name__ == "__main__":
    main()
