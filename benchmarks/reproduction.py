"""How closely preset `paper` comes to the published runs, cell by cell."""

from __future__ import annotations

from statistics import mean

from benchmarks.document import markdown
from benchmarks.figures import Figures, listed, published_column
from benchmarks.groups import GROUPS
from benchmarks.published import PAPERS_DATA, VBD

_PRESET = "paper"
_CLOSE = 2.0
"""Points of F1 that a cell may be off the published mean and still be called the same."""


def reproduction(figures: Figures) -> str:
    """Return F1 of preset `paper` beside the published mean, and a sentence on how many cells are close to it.

    The last column compares the same seeds: they stand for the same targets, but not for the same draws of images.
    """
    columns = _PRESET, published_column(VBD)
    rows, differences = [], []
    for data in PAPERS_DATA:
        for cell in GROUPS["paper"]:
            ours, theirs = (figures.f1.get((data, cell.name, name), {}) for name in columns)
            if not ours or not theirs:
                continue
            difference = mean(ours.values()) - mean(theirs.values())
            shared = sorted(ours.keys() & theirs.keys())
            paired = f"{mean(ours[seed] - theirs[seed] for seed in shared):+.2f}" if shared else ""
            both = (str(figures.spread(data, cell, name)) for name in columns)
            rows.append((data, cell.name, listed(ours), *both, f"{difference:+.2f}", paired))
            differences.append(difference)
    if not rows:
        return ""
    head = ("data", "cell", "seeds", f"{_PRESET} F1 %", "published F1 %", "difference", "on the same seeds")
    below, above = (sum(sign * difference > _CLOSE for difference in differences) for sign in (-1, 1))
    told = f"{len(rows) - below - above} of {len(rows)} cells are within {_CLOSE:g} points of the published mean"
    return f"{markdown(head, rows)}\n\n{told}, {above} above and {below} below."
