"""Names for groups of cells: the tables of the paper, clean data, and what the paper lacks (paper, section 4)."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase

from benchmarks.cells import Cell

PATCHES = ("white_square", "green_square", "white_grid", "color_grid")
"""The triggers of all-to-all attacks, which need a cell of 3 x 3 pixels."""
TRIGGERS = (*PATCHES, "small_kitty", "big_kitty")
BLENDED = (0.5, 0.2, 0.1)

_TABLE_1 = tuple(Cell("a2o", trigger) for trigger in TRIGGERS)
_TABLE_2 = tuple(Cell("a2a", trigger) for trigger in PATCHES)
_TABLE_3 = tuple(Cell("a2o", trigger, blend) for blend in BLENDED for trigger in TRIGGERS)
_TABLE_4 = tuple(Cell("a2a", trigger, blend) for blend in BLENDED for trigger in PATCHES)
_EXTRA = (
    *(f"a2o/white_square/1/{ratio}" for ratio in (0.05, 0.01, 0.005, 0.001)),
    *(f"a2a/white_square/1/{ratio}" for ratio in (0.05, 0.01, 0.005, 0.001)),
    *(f"a2o/{trigger}+jpeg{quality}" for trigger in ("white_square", "green_square") for quality in (95, 85, 75)),
    *(f"a2o/{trigger}+place" for trigger in ("white_square", "white_grid")),
    *(f"a2o/white_square+{word}" for word in ("imbalance100", "classes2", "grey")),
    *(f"clean+{word}" for word in ("jpeg75", "imbalance100", "classes2", "grey")),
)
_LITTLE = (
    *(f"a2o/{trigger}/1/{ratio}" for trigger in PATCHES for ratio in (0.01, 0.005, 0.001)),
    *(f"a2o/{trigger}/0.2/0.01" for trigger in PATCHES),
)
_MOVING = (
    *(f"a2o/{trigger}+{word}" for trigger in PATCHES for word in ("jpeg75", "jitter", "places3", "place")),
    *("a2o/white_square+also=white_grid", "a2o/white_square+other=color_grid", "a2o/green_square+also=small_kitty"),
)
_ONE_PLACE = tuple(f"a2a/{trigger}/{blend}+place" for trigger in PATCHES for blend in (1, *BLENDED))
_UNSEEN = ("a2o/warp", "a2o/own_noise", "cl/white_square/1/0.05", "cl/waves/0.2/0.05")
_CLEAN_SETS = tuple(
    f"clean+{words}"
    for words in (
        *("bootstrap", "grey", "jpeg75", "imbalance100", "samples1000", "samples3000", "samples10000"),
        *("drawn2", "drawn5", "drawn2+samples1000", "drawn5+samples5000", "grey+samples5000"),
        *("mark=border", "mark=stamp", "mark=border+samples5000", "mark=stamp+samples5000"),
    )
)

GROUPS: dict[str, tuple[Cell, ...]] = {
    "table1": _TABLE_1,
    "table2": _TABLE_2,
    "table3": _TABLE_3,
    "table4": _TABLE_4,
    "paper": (*_TABLE_1, *_TABLE_2, *_TABLE_3, *_TABLE_4),
    "clean": (Cell.parse("clean"),),
    "extra": tuple(map(Cell.parse, _EXTRA)),
    "little": tuple(map(Cell.parse, _LITTLE)),
    "moving": tuple(map(Cell.parse, _MOVING)),
    "one-place": tuple(map(Cell.parse, _ONE_PLACE)),
    "unseen": tuple(map(Cell.parse, _UNSEEN)),
    "clean-sets": tuple(map(Cell.parse, _CLEAN_SETS)),
}
"""`paper` is one data set's half of the paper's 80 cells."""

PAPERS_ROWS: dict[str, tuple[Cell, ...]] = {
    "table 1": _TABLE_1,
    "table 2": _TABLE_2,
    **{
        f"table {number}, blend {blend:g}": tuple(cell for cell in table if cell.blend_factor == blend)
        for number, table in ((3, _TABLE_3), (4, _TABLE_4))
        for blend in sorted(BLENDED)
    },
}
"""The rows of averages in the paper's tables; its tables 1 and 2 give single cells too."""

ALL = tuple(dict.fromkeys(cell for cells in GROUPS.values() for cell in cells))


def expand(texts: Iterable[str]) -> list[Cell]:
    """Return the cells that names of groups, patterns and names of cells stand for, each once, in the order given.

    Args:
        texts: `table1`, a pattern over the names of all grouped cells such as `a2a/*/0.1/*`, or `Cell.parse`'s text.

    Raises:
        ValueError: if a text names no cell, or a pattern matches none.
    """
    found: list[Cell] = []
    for text in texts:
        if any(mark in text for mark in "*?["):
            matching = [cell for cell in ALL if fnmatchcase(cell.name, text)]
            if not matching:
                raise ValueError(f"no cell matches {text!r}; names look like {ALL[0].name} and {ALL[-1].name}")
            found += matching
        else:
            found += GROUPS[text] if text in GROUPS else (_parse(text),)
    return list(dict.fromkeys(found))


def _parse(text: str) -> Cell:
    try:
        return Cell.parse(text)
    except ValueError as error:
        raise ValueError(f"{error}; or one of the groups {', '.join(GROUPS)}") from error
