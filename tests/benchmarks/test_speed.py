"""The speed benchmark: shards, limits, counts of operations, memory of all processes, tables."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from benchmarks import speed
from benchmarks.cells import Cell
from benchmarks.data import load_data
from benchmarks.document import markers
from benchmarks.speed_flops import OUTSIDE, FlopsByStage
from benchmarks.speed_limits import matmul_rate, measure_limits
from benchmarks.speed_shards import FORMATS, load_encoded, write_cell
from benchmarks.speed_table import compute_limit, decode_share, gigabytes_per_second, speed_up, spread, tables
from benchmarks.speed_watch import CommandFailedError, process_tree, watch
from vbdguard.ingest.reader import ingest
from vbdguard.report import ScanReport

LIMIT = 120


def _write(folder: Path, cell: str = "a2o/white_square", kind: str = "tar") -> Any:
    data = load_data("demo", LIMIT)
    return write_cell(Cell.parse(cell), data, load_encoded("demo", data), {}, 0, folder, kind)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_scan_reads_the_very_samples_of_the_cell(kind: str, tmp_path: Path) -> None:
    sharded = _write(tmp_path / "shards", kind=kind)
    ingested = ingest(str(sharded.folder), store_dir=tmp_path / "store")
    assert ingested.status == "complete"
    assert sorted(map(bytes, ingested.store.digests)) == sorted(sharded.digests)
    assert sharded.shard_bytes == sum(path.stat().st_size for path in sharded.folder.iterdir()) > sharded.image_bytes
    order = [sharded.digests.index(bytes(digest)) for digest in ingested.store.digests]
    data = load_data("demo", LIMIT)
    expected = Cell.parse("a2o/white_square").poison(data.images, data.labels, {}, 0)
    assert (ingested.store.gather(np.arange(LIMIT)) == expected.images[order]).all()


def test_samples_without_the_trigger_keep_their_bytes(tmp_path: Path) -> None:
    data = load_data("demo", LIMIT)
    # Bytes that no encoder of ours would write: a comment after the end of the PNG.
    encoded = [image + b"as it was" for image in load_encoded("demo", data)]
    sharded = write_cell(Cell.parse("a2o/white_square"), data, encoded, {}, 0, tmp_path / "shards", "parquet")
    import pyarrow.parquet as pq

    (path,) = sharded.folder.iterdir()
    written = [cell["bytes"] for cell in pq.read_table(path)["image"].to_pylist()]
    kept = [image.endswith(b"as it was") for image in written]
    assert kept == (~sharded.is_poisoned).tolist()
    assert sum(sharded.is_poisoned) == LIMIT // 10


def test_a_report_is_scored_by_digest(tmp_path: Path, report_flagging: Callable[..., ScanReport]) -> None:
    sharded = _write(tmp_path / "shards")
    keys = [f"train-000000.tar/{number:07d}" for number in np.flatnonzero(sharded.is_poisoned)]
    all_found = sharded.score(report_flagging(str(sharded.folder), dict.fromkeys(keys)))
    assert (all_found["f1"], all_found["false_positives"], all_found["classes_right"]) == (100.0, 0, 1)
    innocent = f"train-000000.tar/{np.flatnonzero(~sharded.is_poisoned)[0]:07d}"
    half = sharded.score(report_flagging(str(sharded.folder), dict.fromkeys([*keys[: LIMIT // 20], innocent])))
    assert (half["recall"], half["false_positives"]) == (50.0, 1)


def test_fewer_files_than_images_are_refused(tmp_path: Path) -> None:
    data = load_data("demo", 50)
    with pytest.raises(ValueError, match="expected 50 encoded images, got 1"):
        write_cell(Cell.parse("clean"), data, [b""], {}, 0, tmp_path / "shards", "tar")


def test_the_memory_of_a_process_counts_that_of_its_children() -> None:
    child = "held = bytearray(150 << 20); import time; time.sleep(0.6)"
    watched = watch(
        [sys.executable, "-c", f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"]
    )
    assert watched.peak_memory_mb is not None
    assert watched.peak_unmapped_mb is not None
    assert 150 < watched.peak_unmapped_mb < watched.peak_memory_mb < 400
    alone = watch([sys.executable, "-c", "import time; time.sleep(0.3); print('done')"])
    assert alone.stdout == "done\n"
    assert alone.seconds > 0.3
    assert alone.peak_memory_mb is not None
    assert 1 < alone.peak_memory_mb < 100


def test_a_process_tree_holds_grandchildren() -> None:
    script = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(20)'])"
    with subprocess.Popen([sys.executable, "-c", script]) as process:
        try:
            deadline = time.monotonic() + 15
            while len(process_tree(process.pid)) < 2 and time.monotonic() < deadline:
                time.sleep(0.05)
            tree = process_tree(process.pid)
            assert tree[0] == process.pid
            assert len(tree) == 2
            subprocess.run(["kill", str(tree[1])], check=True)
        finally:
            process.kill()


def test_a_command_that_fails_says_why() -> None:
    with pytest.raises(CommandFailedError, match=r"(?s)ended with 3.*no such thing"):
        watch([sys.executable, "-c", "import sys; print('no such thing', file=sys.stderr); sys.exit(3)"])
    assert watch([sys.executable, "-c", "import sys; sys.exit(1)"], fine=(0, 1)).stdout == ""


@pytest.mark.parametrize("processes", [1, 2])
def test_the_limits_of_a_folder_are_measured(processes: int, tmp_path: Path) -> None:
    limits = measure_limits(_write(tmp_path / "shards").folder, processes)
    assert limits.processes == processes
    assert min(limits.to_dict().values()) >= 0
    # Opening and decoding a PNG takes at least ten microseconds; hashing 2 kB does not take a millisecond.
    assert limits.decode > 1e-5 * LIMIT / processes
    assert 0 < limits.hash_samples_limit < limits.hash_samples < 1e-3 * LIMIT
    assert 0 < limits.hash_shards < limits.decode


def test_a_folder_that_cannot_be_read_does_not_hang(tmp_path: Path) -> None:
    from benchmarks.speed_limits import _decode, _on_all

    with pytest.raises(Exception, match=r"nothing-here|broken"):
        _on_all(_decode, tmp_path / "nothing-here", 2)


def test_a_matrix_product_has_a_rate() -> None:
    assert 1e9 < matmul_rate("float32", "cpu") < 1e15


def test_operations_are_counted_by_stage_and_type() -> None:
    counter = FlopsByStage()
    x, filters = torch.randn(2, 3, 8, 8), torch.randn(4, 3, 3, 3, requires_grad=True)
    a = torch.randn(16, 32, dtype=torch.bfloat16)
    with counter:
        counter.begin("ensemble", None)
        F.conv2d(x, filters).sum().backward()
        counter.end()
        counter.begin("flagging", 1)
        with torch.inference_mode():
            F.linear(a, torch.randn(8, 32, dtype=torch.bfloat16))
        counter.end()
        a.float() @ torch.randn(32, 4)
    forward = 2 * (2 * 4 * 6 * 6) * (3 * 3 * 3)
    assert counter.flops == {
        "ensemble": {"float32": 2 * forward},  # forward, and the gradient of the filters
        "flagging": {"bfloat16": 2 * 16 * 32 * 8},
        OUTSIDE: {"float32": 2 * 16 * 32 * 4},
    }


def test_a_spread_shows_median_and_range() -> None:
    assert spread([3.0, 1.0, 2.0]) == "2.00 (1.00 - 3.00)"
    assert spread([1234.5]) == "1,234"
    assert spread([0.01234]) == "0.012"
    assert spread([]) == ""


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """One whole run of the command; preset `paper` is the quick one on so few samples."""
    out = tmp_path_factory.mktemp("speed") / "speed.jsonl"
    arguments = ["--data", "demo", "--limit", str(LIMIT), "--cells", "a2o/white_square", "--presets", "paper"]
    arguments += ["--runs", "1", "--threads", "1", "--device", "cpu", "--yardstick-epochs", "1", "--out", str(out)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["speed", *arguments])
        speed.main()
    return [json.loads(line) for line in out.read_text().splitlines()]


def test_a_run_gives_a_record(records: list[dict[str, Any]]) -> None:
    (record,) = records
    assert (record["cell"], record["samples"], record["poisoned"]) == ("a2o/white_square/1/0.1", LIMIT, LIMIT // 10)
    assert record["cold"]["wall"] > sum(record["cold"]["stages"].values()) > 0
    assert "ingest" in record["cold"]["stages"]
    assert "total" not in record["cold"]["stages"]
    # The second scan takes its report from the cache: no training.
    assert set(record["again"]["stages"]) == {"ingest"}
    assert record["again"]["wall"] < record["cold"]["wall"]
    assert record["environment"]["torch"] == torch.__version__
    assert record["yardstick"]["seconds"]["detectors"] == 1


def test_the_ratios_of_a_run_are_sane(records: list[dict[str, Any]]) -> None:
    (record,) = records
    counted = record["flops"]
    assert sum(sum(counts.values()) for counts in counted.values()) > 1e6 * LIMIT
    assert all(compute_limit(record, stage) > 0 for stage in counted)
    # Nobody multiplies faster than the machine does.
    assert sum(compute_limit(record, stage) for stage in counted) < sum(record["cold"]["stages"].values())
    assert 0 < decode_share(record) < 10
    read = record["again"]["stages"]["ingest"]
    assert gigabytes_per_second(record) * read == pytest.approx(record["shard_bytes"] / 1e9)
    assert speed_up(record) * record["cold"]["wall"] == pytest.approx(record["yardstick"]["seconds"]["total"])
    assert speed_up(record) >= speed_up(record, "total_with_short_epochs") > 0


def test_the_tables_have_a_row_for_each_cell(records: list[dict[str, Any]]) -> None:
    runs = [{**record, "run": run, "cell": cell} for record in records for cell in ("one", "two") for run in (0, 1)]
    text = tables(runs)
    assert len(text.split("### ")) - 1 == 4
    rows = [line for line in text.splitlines() if line.startswith(f"| demo[:{LIMIT}] | tar |")]
    assert len(rows) == 4 * 2
    assert all(row.endswith("| 2 |") for row in rows)
    for table in text.split("### ")[1:]:
        lines = [line for line in table.splitlines() if line.startswith("|")]
        assert len({line.count(" | ") for line in lines}) == 1
    without = tables([{**record, "yardstick": None, "flops": {}} for record in records])
    assert "Against the yardstick" not in without


def test_the_tables_of_a_file_are_printed_or_written(
    records: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "speed.jsonl"
    results.write_text("".join(json.dumps(record) + "\n" for record in records))
    monkeypatch.setattr(sys, "argv", ["speed", "--table", str(results)])
    speed.main()
    assert capsys.readouterr().out == tables(records) + "\n"
    begin, end = markers("speed")
    document = tmp_path / "README.md"
    document.write_text(f"Before.\n{begin}\nold\n{end}\n")
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--write", str(document)])
    speed.main()
    assert document.read_text() == f"Before.\n{begin}\n{tables(records)}\n{end}\n"


@pytest.mark.parametrize(
    "wrong", [[], ["--table", "nowhere"], ["--data", "nowhere"], ["--data", "demo", "--cells", "a2o/no_such"]]
)
def test_what_cannot_be_measured_is_told_of(
    wrong: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["speed", *wrong])
    with pytest.raises(SystemExit, match="2"):
        speed.main()
    assert "error:" in capsys.readouterr().err
