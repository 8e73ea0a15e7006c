"""The short table of the README: F1 of preset `default` by attack and blend factor, published figures in brackets."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.cells import Cell
from benchmarks.figures import OURS, Figures, published_column
from benchmarks.groups import BLENDED, GROUPS
from benchmarks.published import PAPERS_DATA, VBD

_DATA = dict(zip(PAPERS_DATA, ("CIFAR-10", "Tiny ImageNet, 100 classes"), strict=True))
_ATTACKS = {"a2o": "all-to-one", "a2a": "all-to-all"}
_FACTORS = (1.0, *BLENDED)


def summary(figures: Figures) -> str:
    """Return the averages over the paper's triggers as Markdown; a row has no figure where a cell was never run."""
    lines = ["| data, attack | runs | " + " | ".join(f"{'blend ' * (a == 1)}{a:g}" for a in _FACTORS) + " |"]
    lines += ["|---" * (2 + len(_FACTORS)) + "|"]
    for data, title in _DATA.items():
        for mode, attack in _ATTACKS.items():
            by_factor = [_cells(mode, factor) for factor in _FACTORS]
            runs = sum(len(figures.spread(data, cell, OURS[0]).values) for cells in by_factor for cell in cells)
            told = (_average(data, cells, figures) for cells in by_factor)
            lines.append(f"| {title}, {attack} | {runs} | {' | '.join(told)} |")
    return "\n".join(lines)


def _cells(mode: str, factor: float) -> list[Cell]:
    return [cell for cell in GROUPS["paper"] if (cell.mode, cell.blend_factor) == (mode, factor)]


def _average(data: str, cells: Sequence[Cell], figures: Figures) -> str:
    ours, published = (
        figures.average([(data, cell) for cell in cells], column) for column in (OURS[0], published_column(VBD))
    )
    if not ours.values:
        return "not measured"
    return f"{ours.mean:.1f} ({published.mean:.1f})" if published.values else f"{ours.mean:.1f}"
