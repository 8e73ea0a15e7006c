"""F1 against the blend factor, one panel per trigger, one line per method; matplotlib draws it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.cells import MODES, Cell
from benchmarks.figures import CEILING, FLAG_EVERYTHING, Figures, data_name, methods_in, published_column
from benchmarks.groups import BLENDED, TRIGGERS
from benchmarks.published import VBD, Published
from benchmarks.records import Record

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

_BLENDS = (*sorted(BLENDED), 1.0)
_PANEL_INCHES = 2.4
Row = tuple[str, str]
"""A data set and a mode: one row of panels."""


def draw(records: Sequence[Record], published: Published, path: Path) -> None:
    """Write the plot of the paper's cells as SVG, PNG or whatever the file's name ends in.

    Raises:
        ValueError: if matplotlib is missing, knows no such format, or no record is of one of the paper's cells.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ValueError("--plot needs matplotlib; install it, or leave the plot out") from error
    figures = Figures.gather(records, published)
    rows = _rows(records)
    if not rows:
        raise ValueError("expected records of the paper's cells to plot, got none")
    size = (_PANEL_INCHES * len(TRIGGERS), _PANEL_INCHES * len(rows) + 0.6)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(len(rows), len(TRIGGERS), squeeze=False, sharex=True, sharey=True)
    columns = [*methods_in(records), published_column(VBD), CEILING, FLAG_EVERYTHING]
    for row, line in zip(rows, panels, strict=True):
        line[0].set_ylabel("F1 %")
        for trigger, axes in zip(TRIGGERS, line, strict=True):
            _panel(axes, row, trigger, columns, figures)
    handles: dict[str, Artist] = {}
    for axes in panels.flat:
        handles |= {label: handle for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=len(handles), frameon=False)
    # No date and fixed ids, so that the same records give the same file.
    with rc_context({"svg.hashsalt": "benchmarks"}):
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def _panel(axes: Axes, row: Row, trigger: str, columns: Sequence[str], figures: Figures) -> None:
    data, mode = row
    is_empty = True
    for number, column in enumerate(columns):
        points = [(blend, figures.spread(data, Cell(mode, trigger, blend), column)) for blend in _BLENDS]
        points = [(blend, spread) for blend, spread in points if spread.values]
        if not points or (is_empty and column in (CEILING, FLAG_EVERYTHING)):
            continue
        is_empty = False
        dashes = {CEILING: "--", FLAG_EVERYTHING: ":"}.get(column, "-")
        line, *_ = axes.plot(
            [blend for blend, _ in points],
            [spread.mean for _, spread in points],
            linestyle=dashes,
            marker="" if column == FLAG_EVERYTHING else "o",
            markersize=3,
            color=f"C{number % 10}",
            label=column,
        )
        for blend, spread in points:
            axes.vlines(blend, min(spread.values), max(spread.values), color=line.get_color(), linewidth=1)
    if is_empty:
        axes.set_axis_off()
        return
    axes.set_title(f"{trigger}\n{data}, {MODES[mode]}", fontsize=7)
    axes.set(xscale="log", ylim=(-3, 103), xlabel="blend factor")
    axes.set_xticks(_BLENDS, [f"{blend:g}" for blend in _BLENDS])
    axes.minorticks_off()
    axes.tick_params(labelbottom=True)


def _rows(records: Sequence[Record]) -> list[Row]:
    cells = {Cell(mode, trigger, blend).name: mode for mode in MODES for trigger in TRIGGERS for blend in _BLENDS}
    return sorted(
        {(data_name(record), cells[record["cell"]]) for record in records if record["cell"] in cells},
        key=lambda row: (row[0], row[1] != "a2o"),
    )
