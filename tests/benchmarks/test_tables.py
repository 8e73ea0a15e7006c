"""What the tables say is what the records say, counted again by hand."""

from __future__ import annotations

import sys
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pytest

from benchmarks import tables
from benchmarks.ages import ages
from benchmarks.document import markers, with_tables
from benchmarks.figures import Figures
from benchmarks.groups import GROUPS
from benchmarks.published import load_published
from benchmarks.records import append_record, read_records
from benchmarks.reproduction import reproduction
from benchmarks.summary import summary
from benchmarks.tables import all_tables, averages, clean_table, details, f1_per_cell, rivals, shares_of_ceiling

SQUARE = "a2o/white_square/1/0.1"
BEGIN, END = markers("tables")
PUBLISHED = {("cifar10", SQUARE, "VBD"): {0: 97.0, 1: 98.0}, ("cifar10", SQUARE, "ABL"): {0: 84.0}}


def run(cell: str = SQUARE, seed: int = 0, method: str = "default", **changes: Any) -> dict[str, Any]:
    head = {"data": "cifar10", "limit": None, "cell": cell, "seed": seed, "method": method}
    scores = {"f1": 90.0, "precision": 80.0, "recall": 100.0, "false_positives": 4, "false_positive_rate": 0.5}
    classes = {"classes_right": 1, "classes_wrong": 0, "classes_attacked": 1}
    machine = {"device": "cpu", "machine": "x, 1 threads", "torch": "2", "commit": "abc"}
    cost = {"seconds": {"total": 60.4}, "peak_memory_mb": 700, "environment": machine}
    priors = {"priors": {"3": 0.1, "5": 0.2}} if method == "ceiling" else {}
    return head | scores | classes | cost | priors | changes


def clean(seed: int = 0, **changes: Any) -> dict[str, Any]:
    nothing = {"f1": 0.0, "precision": 0.0, "recall": 0.0, "false_positives": 0, "false_positive_rate": 0.0}
    return run("clean", seed, **nothing, classes_right=0, classes_attacked=0) | changes


def rows(table: str) -> list[dict[str, str]]:
    head, rule, *lines = ([cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines())
    assert len(head) == len(rule)
    return [dict(zip(head, line, strict=True)) for line in lines]


def test_a_cell_has_one_row_with_mean_spread_and_number_of_seeds() -> None:
    f1 = [90.0, 97.5, 99.0]
    records = [run(seed=seed, f1=value) for seed, value in enumerate(f1)] + [run(method="paper", f1=97.0)]
    (row,) = rows(f1_per_cell(records, Figures.gather(records, PUBLISHED)))
    assert row["default"] == f"{mean(f1):.2f} ± {stdev(f1):.2f} (3)"
    assert row["paper"] == "97.00 (1)"
    assert row["published VBD"] == f"97.50 ± {stdev([97, 98]):.2f}"
    assert row["published ABL"] == "84.00"
    assert "published AGPD" not in row
    assert row["flag everything"] == "18.18"


def test_reference_lines_follow_the_cell() -> None:
    low = "a2o/white_square/0.1/0.01"
    records = [run(low), run(low, method="ceiling", f1=55.0)]
    (row,) = rows(f1_per_cell(records, Figures.gather(records, {})))
    assert row["flag everything"] == f"{100 * 2 * 0.01 / 1.01:.2f}"
    assert row["ceiling"] == "55.00 (1)"


def test_averages_compare_the_same_cells_and_say_how_many_there_are() -> None:
    grid = "a2o/white_grid/1/0.1"
    published = PUBLISHED | {("cifar10", grid, "VBD"): {0: 99.0, 1: 100.0}, ("cifar10", "a2o/x/1/0.1", "VBD"): {0: 1.0}}
    records = [run(seed=seed, f1=90.0 + seed) for seed in range(2)]
    records += [run(grid, seed, f1=80.0 + seed) for seed in range(2)]
    by_title = {row["cells of"]: row for row in rows(averages(records, Figures.gather(records, published)))}
    table = by_title["cifar10, table 1"]
    assert (table["measured"], table["F1 %"]) == ("2 of 6", f"85.50 ± {stdev([85, 86]):.2f}")
    assert table["published %"] == f"98.50 ± {stdev([98, 99]):.2f}"
    assert by_title["cifar10, all of this set"]["measured"] == "2 of 40"
    assert by_title["all cells of both sets"]["measured"] == "2 of 80"
    assert "cifar10, table 2" not in by_title


def test_an_average_over_unequal_seeds_has_no_spread() -> None:
    records = [run(f1=90.0), run("a2o/white_grid/1/0.1", 1, f1=80.0), run("a2o/white_grid/1/0.1", 2, f1=84.0)]
    row = rows(averages(records, Figures.gather(records, {})))[0]
    assert row["F1 %"] == "86.00"


def test_a_reference_is_left_out_of_an_average_that_it_does_not_wholly_cover() -> None:
    records = [run(), run("a2o/white_grid/1/0.1"), run(method="ceiling", f1=95.0)]
    row = rows(averages(records, Figures.gather(records, PUBLISHED)))[0]
    assert (row["ceiling"], row["published %"]) == ("", "")


def test_data_cut_short_stand_apart_from_the_whole() -> None:
    records = [run(), run(limit=5000, f1=50.0)]
    figures = Figures.gather(records, PUBLISHED)
    whole, part = rows(f1_per_cell(records, figures))
    assert (whole["data"], part["data"]) == ("cifar10", "cifar10[:5000]")
    assert (whole["default"], part["default"], part["published VBD"]) == ("90.00 (1)", "50.00 (1)", "")
    assert "all cells of both sets" in averages(records, figures)
    assert "all cells of both sets" not in averages(records[1:], Figures.gather(records[1:], {}))


def test_the_clean_table_counts_alarms() -> None:
    flagged = clean(1, false_positives=5, false_positive_rate=0.01, classes_wrong=1)
    (row,) = rows(clean_table([clean(), flagged, clean(2), clean(3, alarm=True), run()]))
    assert (row["runs"], row["with an alarm"], row["flagged %, worst run"]) == ("4", "2 (50 %)", "0.010")


def test_the_clean_table_bounds_the_rate_of_alarms_over_all_clean_sets() -> None:
    grey = [clean(seed) | {"cell": "clean+grey"} for seed in range(20)]
    first, second, whole = rows(clean_table([*map(clean, range(40)), *grey]))
    assert [row["runs"] for row in (first, second, whole)] == ["40", "20", "60"]
    # no alarm in n runs: 1 - 0.05 ** (1 / n)
    assert [row["upper 95 % bound"] for row in (first, second, whole)] == ["7.2 %", "13.9 %", "4.9 %"]
    assert whole["cell"] == "2 clean sets"


def test_the_share_of_the_ceiling_is_that_of_the_seeds_that_both_have() -> None:
    records = [run(seed=0, f1=70.0), run(seed=1, f1=80.0), run(seed=2, f1=90.0)]
    records += [run(seed=seed, method="ceiling", f1=f1) for seed, f1 in ((1, 90.0), (2, 95.0), (3, 10.0))]
    records += [run("a2o/white_grid/1/0.1"), run("a2a/white_grid/1/0.1", method="ceiling")]
    (row,) = rows(shares_of_ceiling(records, Figures.gather(records, {})))
    assert row == {
        **{"data": "cifar10", "cell": SQUARE, "seeds": "1, 2"},
        **{"default F1 %": "85.00", "ceiling F1 %": "92.50", "share of it %": "91.9", "classes that it is of": "2"},
    }
    assert shares_of_ceiling([run()], Figures.gather([run()], {})) == ""


def test_the_published_preset_is_held_against_the_published_runs_cell_by_cell() -> None:
    grid, square = "a2o/white_grid/1/0.1", "a2a/white_square/1/0.1"
    published = {("cifar10", cell, "VBD"): {0: 97.0, 1: 98.0, 2: 99.0} for cell in (SQUARE, grid, square)}
    records = [run(seed=1, method="paper", f1=95.0), run(seed=2, method="paper", f1=99.0), run(f1=10.0)]
    records += [run(grid, method="paper", f1=95.5), run(square, method="paper", f1=100.5)]
    table, told = reproduction(Figures.gather(records, published)).split("\n\n")
    here, below, above = rows(table)
    assert here == {
        **{"data": "cifar10", "cell": SQUARE, "seeds": "1, 2"},
        **{"paper F1 %": f"97.00 ± {stdev([95, 99]):.2f}", "published F1 %": "98.00 ± 1.00"},
        **{"difference": "-1.00", "on the same seeds": "-1.50"},
    }
    assert (below["difference"], below["on the same seeds"]) == ("-2.50", "-1.50")
    assert (above["difference"], above["on the same seeds"]) == ("+2.50", "+3.50")
    assert told == "1 of 3 cells are within 2 points of the published mean, 1 above and 1 below."
    assert reproduction(Figures.gather(records, {})) == ""


def test_each_row_of_the_paper_tells_how_many_runs_there_are_and_of_which_code() -> None:
    def of(commit: str) -> dict[str, Any]:
        return {"environment": {"device": "cpu", "machine": "x", "torch": "2", "commit": commit}}

    records = [run(seed=seed, **of("b" if seed else "a")) for seed in (0, 1, 2, 3)]
    records += [run(method="paper"), run(method="abl"), run(method="flare"), run(method="ceiling")]
    records += [clean(), run("a2o/white_square/1/0.01"), run("a2a/white_grid/0.2/0.1", limit=500)]
    found = [tuple(row.values()) for row in rows(ages(records))]
    assert found == [
        ("cifar10", "table 1", "default", "3 of 18", "b: 3, a: 1"),
        ("cifar10", "other attacks", "default", "1", "abc: 1"),
        ("cifar10", "clean sets", "default", "1", "abc: 1"),
        ("cifar10", "table 1", "paper", "1 of 18", "abc: 1"),
        ("cifar10", "table 1", "rivals", "2", "abc: 2"),
        ("cifar10", "table 1", "ceiling", "1", "abc: 1"),
        ("cifar10[:500]", "table 4, blend 0.2", "default", "1 of 12", "abc: 1"),
    ]


def test_details_add_up_the_classes_and_leave_clean_runs_and_ceilings_out() -> None:
    records = [run(seed=1, classes_wrong=2), run(), clean(), run(method="ceiling")]
    (row,) = rows(details(records))
    assert (row["seeds"], row["classes found"], row["innocent classes accused"]) == ("0, 1", "2 of 2", "2")


def test_rivals_have_a_table_of_their_own_beside_ours_and_their_published_figures() -> None:
    small = "abl@lr=0.05,width=8"
    records = [run(f1=98.0), run(method=small, f1=50.0, learnt_poisoned=99.5), run(method="flare", f1=70.0)]
    figures = Figures.gather(records, PUBLISHED)
    abl, flare = rows(rivals(records, figures))
    assert (abl["method"], abl["F1 %"], abl["default"], abl["published"]) == (small, "50.00", "98.00", "84.00")
    assert (abl["poison that its model learnt %"], flare["poison that its model learnt %"]) == ("99.50", "")
    assert (flare["F1 %"], flare["published"]) == ("70.00", "")
    (of_ours,) = rows(f1_per_cell(records, figures))
    assert not {small, "flare"} & set(of_ours)
    assert [row["method"] for row in rows(details(records))] == ["default"]


def test_a_rival_has_an_average_only_over_all_cells_of_a_table() -> None:
    names = ["white_square", "white_grid", "green_square", "color_grid", "small_kitty", "big_kitty"]
    some = [run(f"a2o/{name}/1/0.1", method="scan") for name in names[:-1]]
    assert not averages(some, Figures.gather(some, {}))
    every = [*some, run(f"a2o/{names[-1]}/1/0.1", method="scan")]
    assert [row["cells of"] for row in rows(averages(every, Figures.gather(every, {})))] == ["cifar10, table 1"]


def test_tables_go_between_the_markers_and_nowhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records, document = tmp_path / "r.jsonl", tmp_path / "doc.md"
    append_record(records, run())
    document.write_text(f"# Title\n\n{BEGIN}\nold\n{END}\n\nText.\n")
    monkeypatch.setattr(sys, "argv", ["tables", str(records), "--write", str(document)])
    tables.main()
    once = document.read_text()
    assert once == f"# Title\n\n{BEGIN}\n{all_tables([run()], {})}\n{END}\n\nText.\n"
    tables.main()
    assert document.read_text() == once


@pytest.mark.parametrize("document", ["", BEGIN, f"{END}{BEGIN}", f"{BEGIN}{END}{BEGIN}{END}"])
def test_a_document_without_its_markers_is_refused(document: str) -> None:
    with pytest.raises(ValueError, match="once each"):
        with_tables(document, "| x |", "tables")


def test_a_missing_file_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["tables", str(tmp_path / "none.jsonl")])
    with pytest.raises(SystemExit):
        tables.main()
    assert "none.jsonl" in capsys.readouterr().err


def test_the_short_table_gives_ours_with_the_published_figure_in_brackets() -> None:
    six = [cell.name for cell in GROUPS["table1"]]
    records = [run(cell, seed, f1=99.0 + seed) for cell in six for seed in (0, 1)]
    published = {("cifar10", cell, "VBD"): {0: 96.0} for cell in six}
    by_row = {row["data, attack"]: row for row in rows(summary(Figures.gather(records, published)))}
    row = by_row["CIFAR-10, all-to-one"]
    assert (row["runs"], row["blend 1"], row["0.5"]) == ("12", "99.5 (96.0)", "not measured")
    partly = summary(Figures.gather(records[2:], published))
    assert {row["blend 1"] for row in rows(partly)} == {"not measured"}


@pytest.fixture(scope="module")
def papers_runs(test_data: Path) -> Path:
    path = test_data / "paper" / "official-results-per-seed.csv"
    if not path.exists():
        pytest.skip("the published runs do not lie beside the test data")
    return path


def test_the_documents_hold_what_the_records_say(papers_runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    records = read_records([Path(f"benchmarks/results/{name}.jsonl") for name in ("cifar10", "tiny", "ceiling")])
    published = load_published(papers_runs)
    for document, text, name in [
        ("benchmarks/README.md", all_tables(records, published), "tables"),
        ("README.md", summary(Figures.gather(records, published)), "summary"),
    ]:
        written = Path(document).read_text()
        assert written == with_tables(written, text, name), f"{document} is out of date: run benchmarks.tables"


def test_published_averages_are_those_of_the_paper(papers_runs: Path) -> None:
    figures = Figures.gather([], load_published(papers_runs))
    for group, data, expected in [
        ("table1", "cifar10", "99.30 ± 0.10"),
        ("table2", "tiny-imagenet-100", "66.50 ± 1.91"),
        ("paper", "cifar10", "89.58 ± 0.54"),
        ("paper", "tiny-imagenet-100", "67.89 ± 1.64"),
    ]:
        pairs = [(data, cell) for cell in GROUPS[group]]
        assert str(figures.average(pairs, "published VBD")) == expected
