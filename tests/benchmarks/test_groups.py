from __future__ import annotations

import pytest

from benchmarks.cells import Cell
from benchmarks.groups import ALL, GROUPS, expand
from benchmarks.scales import SCALES


def test_the_tables_of_the_paper_are_forty_cells_of_each_data_set() -> None:
    assert [len(GROUPS[f"table{number}"]) for number in (1, 2, 3, 4)] == [6, 4, 18, 12]
    assert len(set(GROUPS["paper"])) == len(GROUPS["paper"]) == 40
    assert {cell.ratio for cell in GROUPS["paper"]} == {0.1}


def test_every_grouped_cell_can_be_asked_for_by_its_name() -> None:
    assert expand(cell.name for cell in ALL) == list(ALL)


def test_patterns_groups_and_cells_mix_and_none_comes_twice() -> None:
    found = expand(["clean", "a2a/*/0.1/0.1", "a2a/white_grid/0.1", "clean+grey"])
    assert found[0] == Cell.parse("clean")
    assert {cell.trigger for cell in found[1:5]} == {"white_square", "green_square", "white_grid", "color_grid"}
    assert [cell.name for cell in found[5:]] == ["clean+grey"]


def test_the_paper_s_missing_cells_are_there() -> None:
    names = {cell.name for cell in GROUPS["extra"]}
    assert {"a2o/white_square/1/0.05", "a2o/white_square/1/0.001", "a2o/white_square/1/0.1+jpeg75"} <= names
    for variation in ("place", "grey", "classes2", "imbalance100", "jpeg95"):
        assert any(name.endswith(f"+{variation}") for name in names), variation


@pytest.mark.parametrize("text", ["a2a/*/0.3/*", "table9", "a2o"])
def test_what_names_nothing_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"no cell matches|one of the groups"):
        expand([text])


@pytest.mark.parametrize("name", SCALES)
def test_every_scale_names_cells_that_there_are(name: str) -> None:
    scale = SCALES[name]
    assert len(expand(scale.cells)) >= 2
    assert scale.seeds
    assert scale.clean_seeds


def test_the_large_scale_holds_ten_clean_runs_and_all_cells_of_the_paper() -> None:
    scale = SCALES["gpu"]
    assert len(scale.clean_seeds) >= 10
    assert set(GROUPS["paper"]) <= set(expand(scale.cells))
