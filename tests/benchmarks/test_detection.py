"""How runs are scored and laid out; the runs themselves are `detect`, tested with the method."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import mean, pstdev
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import detection
from benchmarks.detection import _score, table
from vbdguard.config import EnsembleConfig, MethodConfig
from vbdguard.method.pipeline import ClassFinding, Detection

KEYS = ("f1", "precision", "recall", "false_positives", "classes_right", "classes_wrong")


def run(cell: str = "a2o/white_square/1/0.1", seed: int = 0, preset: str = "default", **changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = dict(zip(KEYS, (90.0, 80.0, 100.0, 4, 1, 0), strict=True))
    head = {"data": "cifar10", "cell": cell, "seed": seed, "preset": preset, "seconds": {"total": 60.4}}
    return head | values | changes


def detected(flagged: np.ndarray, accused: set[int]) -> Detection:
    classes = tuple(ClassFinding(k, k in accused, None, None, None, None) for k in range(4))
    blank = torch.zeros(len(flagged))
    return Detection(classes, torch.from_numpy(flagged), blank, blank.long() - 1, {})


@pytest.mark.parametrize("seed", range(3))
def test_scores_are_those_of_counting_one_by_one(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth, flagged = rng.random(300) < 0.2, rng.random(300) < 0.3
    labels = np.where(truth, 1, rng.integers(0, 4, 300))
    score = _score(detected(flagged, {1, 3}), truth, labels)
    pairs = list(zip(truth.tolist(), flagged.tolist(), strict=True))
    hits, false, missed = (pairs.count(pair) for pair in ((True, True), (False, True), (True, False)))
    precision, recall = hits / (hits + false), hits / (hits + missed)
    assert score["precision"] == pytest.approx(100 * precision, abs=1e-3)
    assert score["recall"] == pytest.approx(100 * recall, abs=1e-3)
    assert score["f1"] == pytest.approx(200 * precision * recall / (precision + recall), abs=1e-3)
    assert score["false_positives"] == false
    assert score["false_positive_rate"] == pytest.approx(100 * false / (300 - truth.sum()), abs=1e-4)
    assert (score["classes_right"], score["classes_wrong"], score["classes_attacked"]) == (1, 1, 1)


def test_clean_data_without_an_alarm_score_nothing_and_divide_by_nothing() -> None:
    score = _score(detected(np.zeros(20, np.bool_), set()), np.zeros(20, np.bool_), np.arange(20) % 4)
    assert set(score.values()) == {0}


def test_flagging_everything_scores_what_the_poison_ratio_gives() -> None:
    truth = np.arange(1000) < 100
    score = _score(detected(np.ones(1000, np.bool_), {0}), truth, np.zeros(1000, np.int64))
    assert (score["f1"], score["precision"], score["recall"]) == (18.182, 10.0, 100.0)


def test_the_table_has_mean_and_spread_over_seeds() -> None:
    f1 = [90.0, 97.5, 99.0]
    rows = table([run(seed=seed, f1=value, false_positives=seed, classes_wrong=seed) for seed, value in enumerate(f1)])
    head, rule, row = rows.splitlines()
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert len(cells) == head.count("|") - 1 == rule.count("|") - 1
    assert cells[:4] == ["cifar10", "a2o/white_square/1/0.1", "default", "0, 1, 2"]
    assert cells[4] == f"{mean(f1):.2f} ± {pstdev(f1):.2f}"
    assert cells[5:] == ["", "80.00", "100.00", "1.00", "3 / 3", "60"]


def test_the_published_mean_stands_beside_ours_where_there_is_one() -> None:
    rows = table([run(), run(data="tiny")], {("cifar10", "a2o/white_square/1/0.1"): 97.461})
    assert [row.split("|")[6].strip() for row in rows.splitlines()[2:]] == ["97.46", ""]


def test_each_cell_and_preset_has_its_row_and_clean_data_no_f1() -> None:
    records = [run("clean"), run(preset="paper"), run(), run(data="tiny")]
    rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in table(records).splitlines()[2:]]
    assert [(row[0], row[1], row[2]) for row in rows] == [
        ("cifar10", "a2o/white_square/1/0.1", "default"),
        ("cifar10", "a2o/white_square/1/0.1", "paper"),
        ("cifar10", "clean", "default"),
        ("tiny", "a2o/white_square/1/0.1", "default"),
    ]
    assert [row[4] for row in rows] == ["90.00 ± 0.00", "90.00 ± 0.00", "", "90.00 ± 0.00"]


def command_line(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["detection", *map(str, arguments)])
    detection.main()


def test_a_results_file_is_laid_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "results.jsonl"
    results.write_text("".join(json.dumps(run(seed=seed)) + "\n" for seed in range(2)))
    command_line(monkeypatch, "--table", results)
    assert capsys.readouterr().out == table([run(seed=0), run(seed=1)]) + "\n"


def test_a_run_that_stands_in_the_file_is_not_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two classes of noise in a parquet file; the second call has only the second seed left to do."""
    quick = MethodConfig(ensemble=EnsembleConfig(architectures=((4,),), epochs=1))
    monkeypatch.setattr(MethodConfig, "preset", lambda _: quick)
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    folder = tmp_path / "noise"
    folder.mkdir()
    rng = np.random.default_rng(0)
    cells = [{"bytes": _png(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8))} for _ in range(60)]
    pq.write_table(pa.table({"image": cells, "label": [k % 2 for k in range(60)]}), folder / "train-0.parquet")
    out = tmp_path / "results.jsonl"
    common = ("--data", folder, "--cells", "clean", "--out", out, "--device", "cpu")
    command_line(monkeypatch, *common, "--seeds", 0)
    command_line(monkeypatch, *common, "--seeds", 0, 1)
    records = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(record["data"], record["cell"], record["seed"]) for record in records] == [
        ("noise", "clean", 0),
        ("noise", "clean", 1),
    ]
    assert capsys.readouterr().out.count("\n") == 2
    for record in records:
        assert record["seconds"]["total"] > 0
        assert record["environment"]["torch"] == torch.__version__


def test_data_are_needed_to_run_anything(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command_line(monkeypatch)
    assert "--data is needed" in capsys.readouterr().err


def _png(pixels: np.ndarray) -> bytes:
    from vbdguard.sources.writing import encode_image

    return encode_image(pixels)
