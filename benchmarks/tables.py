"""Print the paper's tables with ours beside the published figures, from the records of the bench.

    python -m benchmarks.tables results/cifar10.jsonl results/ceiling.jsonl --published RESULTS.csv \\
        --write benchmarks/README.md --summary README.md --plot benchmarks/results/f1.svg

Means are over seeds, "±" is the sample standard deviation over seeds, as in the paper.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from statistics import mean

from scipy.stats import beta

from benchmarks.ages import ages
from benchmarks.cells import Cell
from benchmarks.document import markdown, put
from benchmarks.figures import (
    CEILING,
    FLAG_EVERYTHING,
    OURS,
    Figures,
    Spread,
    data_name,
    listed,
    methods_in,
    published_column,
)
from benchmarks.groups import GROUPS, PAPERS_ROWS
from benchmarks.published import COUNTERPARTS, PAPERS_DATA, Published, load_published
from benchmarks.records import Record, read_records
from benchmarks.reproduction import reproduction
from benchmarks.roster import plain_name
from benchmarks.summary import summary

_AVERAGED = {
    **PAPERS_ROWS,
    "table 3": GROUPS["table3"],
    "table 4": GROUPS["table4"],
    "all of this set": GROUPS["paper"],
}
"""The rows of the table of averages for one data set: a title, and the cells that it is the mean of."""


def main() -> None:
    """Print or write the tables that the command line asks for."""
    parser = _parser()
    args = parser.parse_args()
    try:
        records = read_records(args.records)
        published = load_published(args.published) if args.published else {}
        text = all_tables(records, published)
        if args.plot:
            from benchmarks.plot import draw

            draw(records, published, args.plot)
        if args.summary:
            put(summary(Figures.gather(records, published)), args.summary, "summary")
        put(text, args.write, "tables")
    except (ValueError, OSError) as error:
        parser.error(str(error))


def all_tables(records: Sequence[Record], published: Published) -> str:
    """Return all tables as Markdown, each under its heading; those without a figure are left out."""
    figures = Figures.gather(records, published)
    parts = [
        ("Averages over the paper's cells", averages(records, figures)),
        ("F1 (%) per cell", f1_per_cell(records, figures)),
        ("Preset `paper` against the published runs", reproduction(figures)),
        ("Share of the ceiling", shares_of_ceiling(records, figures)),
        ("Rivals", rivals(records, figures)),
        ("Clean data", clean_table(records)),
        ("Errors and cost per cell", details(records)),
        ("Runs, and the code that made them", ages(records)),
    ]
    body = "\n\n".join(f"### {title}\n\n{table}" for title, table in parts if table)
    return f"{body}\n\n{provenance(records)}"


def averages(records: Sequence[Record], figures: Figures) -> str:
    """Return the averages of each of the paper's tables and of all cells, per method, over the cells that are there.

    The other columns average the same cells, so that a row compares like with like. A rival has a row where it was
    measured on all cells of it.
    """
    rows = []
    names = sorted({data_name(record) for record in records})
    for method in methods_in(records):
        for data in names:
            for title, cells in _AVERAGED.items():
                pairs = _there([(data, cell) for cell in cells], method, figures)
                rows += _average(f"{data}, {title}", method, pairs, len(cells), figures)
        pairs = _there([(data, cell) for data in PAPERS_DATA for cell in GROUPS["paper"]], method, figures)
        rows += _average("all cells of both sets", method, pairs, len(PAPERS_DATA) * len(GROUPS["paper"]), figures)
    return markdown(("cells of", "method", "measured", "F1 %", "published %", CEILING, FLAG_EVERYTHING), rows)


def f1_per_cell(records: Sequence[Record], figures: Figures) -> str:
    """Return F1 by cell and preset, published figures and reference lines beside them."""
    places = sorted({(data_name(record), record["cell"]) for record in records if record["method"] in (*OURS, CEILING)})
    pairs = [(data, cell) for data, name in places if (cell := Cell.parse(name)).mode != "clean"]
    pairs.sort(key=lambda pair: (pair[0], *_order(pair[1])))
    columns = [*OURS, *(published_column(name) for name in dict.fromkeys(COUNTERPARTS.values()))]
    columns = [column for column in columns if any(figures.spread(*pair, column).values for pair in pairs)]
    columns += [CEILING, FLAG_EVERYTHING]
    rows = [
        (data, cell.name, *(_with_count(figures.spread(data, cell, column), column) for column in columns))
        for data, cell in pairs
    ]
    return markdown(("data", "cell", *columns), rows)


def shares_of_ceiling(records: Sequence[Record], figures: Figures) -> str:
    """Return how much of the oracle ceiling preset `default` reaches, on the seeds that both have.

    The ceiling of an all-to-all cell is that of some of its classes, and how well a trigger shows hangs on its place.
    """
    asked: dict[tuple[str, str], int] = {}
    for record in records:
        if record["method"] == CEILING:
            place = data_name(record), record["cell"]
            asked[place] = max(asked.get(place, 0), len(record["priors"]))
    rows = []
    for data, name in sorted(asked, key=lambda place: (place[0], *_order(Cell.parse(place[1])))):
        ours, ceiling = (figures.f1.get((data, name, column), {}) for column in (OURS[0], CEILING))
        shared = sorted(ours.keys() & ceiling.keys())
        if shared:
            reached, most = mean(ours[seed] for seed in shared), mean(ceiling[seed] for seed in shared)
            share = f"{100 * reached / most:.1f}"
            numbers = listed(shared), f"{reached:.2f}", f"{most:.2f}", share, asked[data, name]
            rows.append((data, name, *map(str, numbers)))
    columns = ("seeds", f"{OURS[0]} F1 %", f"{CEILING} F1 %", "share of it %", "classes that it is of")
    return markdown(("data", "cell", *columns), rows)


def rivals(records: Sequence[Record], figures: Figures) -> str:
    """Return how the rivals did, preset `default` and the published figures beside them.

    What their poisoned model has learnt of the poison says whether there was anything in it to be found.
    """
    rows = []
    for (data, cell, method), group in _grouped(records, clean=False).items():
        if method in (*OURS, CEILING):
            continue
        compared = (OURS[0], published_column(COUNTERPARTS.get(plain_name(method), method)))
        rows.append(
            (
                *(data, cell, method, listed(record["seed"] for record in group)),
                *(str(_spread(group, name)) for name in ("f1", "precision", "recall", "false_positive_rate")),
                *(str(figures.spread(data, Cell.parse(cell), column)) for column in compared),
                str(_spread([record for record in group if "learnt_poisoned" in record], "learnt_poisoned")),
                f"{mean(record['seconds']['total'] for record in group):.0f}",
            )
        )
    scores = ("F1 %", "precision %", "recall %", "FPR %", "default", "published", "poison that its model learnt %")
    return markdown(("data", "cell", "method", "seeds", *scores, "s"), rows)


def clean_table(records: Iterable[Record]) -> str:
    """Return for clean data: in how many runs there was any alarm, and which share of the samples was flagged.

    Where a method ran on several clean sets, a last row counts them all.
    """
    groups = _grouped(records, clean=True)
    rows = [(*key, *_alarms(group)) for key, group in groups.items()]
    for method in sorted({method for _, _, method in groups}):
        of_method = [group for (_, _, name), group in groups.items() if name == method]
        if len(of_method) > 1:
            rows.append(("all", f"{len(of_method)} clean sets", method, *_alarms(list(chain.from_iterable(of_method)))))
    names = ("runs", "with an alarm", "upper 95 % bound", "flagged %", "flagged %, worst run")
    return markdown(("data", "cell", "method", *names), rows)


def _alarms(group: Sequence[Record]) -> tuple[str, ...]:
    """Return runs, alarms, the one-sided 95 % bound of their rate (Clopper-Pearson), and the shares flagged."""
    runs, alarms = len(group), sum(has_alarm(record) for record in group)
    bound = 1.0 if alarms == runs else float(beta.ppf(0.95, alarms + 1, runs - alarms))
    shares = [record["false_positive_rate"] for record in group]
    told = (str(runs), f"{alarms} ({100 * alarms / runs:.0f} %)", f"{100 * bound:.1f} %")
    return *told, f"{mean(shares):.3f}", f"{max(shares):.3f}"


def details(records: Iterable[Record]) -> str:
    """Return what else was scored: precision, recall, false flags, classes, memory and time, per cell and preset."""
    rows = []
    for (data, cell, method), group in _grouped(records, clean=False).items():
        if method not in OURS:
            continue
        right, wrong, attacked = (
            sum(record[f"classes_{kind}"] for record in group) for kind in ("right", "wrong", "attacked")
        )
        rows.append(
            (
                *(data, cell, method, listed(record["seed"] for record in group)),
                *(str(_spread(group, name)) for name in ("precision", "recall", "false_positive_rate")),
                *(f"{right} of {attacked}", str(wrong)),
                *(f"{mean(record['seconds']['total'] for record in group):.0f}", _peak(group)),
            )
        )
    names = ("precision %", "recall %", "FPR %", "classes found", "innocent classes accused", "s", "peak MB")
    return markdown(("data", "cell", "method", "seeds", *names), rows)


def provenance(records: Sequence[Record]) -> str:
    """Return a sentence on how many runs there are, and which machines, versions and commits made them."""
    found: dict[str, set[str]] = defaultdict(set)
    for record in records:
        for name in ("device", "machine", "torch", "commit"):
            found[name].add(str(record["environment"][name]))
    told = "; ".join(f"{name}: {', '.join(sorted(values))}" for name, values in found.items())
    return f"{len(records)} runs ({told})." if records else "No runs yet."


def has_alarm(record: Record) -> bool:
    """Return whether a run flagged a sample or accused a class; older records do not say it themselves."""
    counts = ("classes_right", "classes_wrong", "false_positives")
    return bool(record.get("alarm", any(record[name] for name in counts) or record["recall"] > 0))


def _there(pairs: Sequence[tuple[str, Cell]], method: str, figures: Figures) -> list[tuple[str, Cell]]:
    return [pair for pair in pairs if figures.spread(*pair, method).values]


def _average(
    title: str, method: str, pairs: Sequence[tuple[str, Cell]], count: int, figures: Figures
) -> list[tuple[str, ...]]:
    if not pairs or (method not in OURS and len(pairs) < count):
        return []
    published = published_column(COUNTERPARTS.get(plain_name(method), method))
    columns = (method, published, CEILING, FLAG_EVERYTHING)
    return [(title, method, f"{len(pairs)} of {count}", *(str(figures.average(pairs, name)) for name in columns))]


def _with_count(spread: Spread, column: str) -> str:
    """Return the figure with the number of its seeds, which only ours can lack."""
    is_measured = bool(spread.values) and not column.startswith("published") and column != FLAG_EVERYTHING
    return f"{spread} ({len(spread.values)})" if is_measured else str(spread)


def _grouped(records: Iterable[Record], *, clean: bool) -> dict[tuple[str, str, str], list[Record]]:
    groups: dict[tuple[str, str, str], list[Record]] = defaultdict(list)
    for record in records:
        if (Cell.parse(record["cell"]).mode == "clean") == clean:
            groups[data_name(record), record["cell"], record["method"]].append(record)
    order = sorted(groups, key=lambda key: (key[0], *_order(Cell.parse(key[1])), key[2]))
    return {key: sorted(groups[key], key=lambda record: int(record["seed"])) for key in order}


def _order(cell: Cell) -> tuple[object, ...]:
    return -ord(cell.mode[-1]), -cell.ratio, cell.variation.name, -cell.blend_factor, cell.trigger


def _spread(group: Iterable[Record], name: str) -> Spread:
    return Spread(tuple(record[name] for record in group))


def _peak(group: Iterable[Record]) -> str:
    peaks: list[int] = [record.get("peak_gpu_memory_mb") or record["peak_memory_mb"] for record in group]
    return str(max(peaks))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("records", type=Path, nargs="+", help="files of benchmarks.detection and benchmarks.ceiling")
    parser.add_argument("--published", type=Path, help="CSV of the paper's runs, for columns beside ours")
    parser.add_argument("--write", type=Path, help="a Markdown file with the two markers, to write the tables into")
    parser.add_argument("--summary", type=Path, help="a Markdown file, for the short table of the paper's cells")
    parser.add_argument("--plot", type=Path, help="FILE.svg or .png: F1 against the blend factor per trigger")
    return parser


if __name__ == "__main__":
    main()
