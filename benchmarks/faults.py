"""Kill scans with SIGKILL at random moments, let each go on, and compare with a scan that nobody disturbed.

    python -m benchmarks.faults --trials 100 --out benchmarks/results/faults.jsonl

Small synthetic shards (`benchmarks.scaling_data`) with one poisoned class and one truncated shard are scanned by two
reading processes and settings of few steps, each scan in processes of its own. A trial starts with an empty cache; one
or two scans in a row are killed at random moments, half of them drawn evenly from the time that an undisturbed scan
takes, half from the part of it up to the last shard: the main process alone, or all its processes at once. Workers
that outlive their parent by two seconds are counted. The scan that follows must give the same report to the byte but
for `timings`, and must leave the segments alone that stood already.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.machine import environment
from benchmarks.records import append_record
from benchmarks.scaling_data import Point, write_point

POINT = Point(samples=1500, classes=4, poisoned=1, side=64)
SHARDS = 12
SECONDS_TO_STOP = 2.0
_SCAN = """
import sys
import vbdguard
from vbdguard.config import DirectMethodConfig, LabelCheckConfig, WindowDetectorConfig
method = DirectMethodConfig(
    detector=WindowDetectorConfig(batch_size=64),
    label_check=LabelCheckConfig(architecture=(8,), epochs=2, min_steps=60, batch_size=64),
)
config = vbdguard.ScanConfig(device="cpu", jobs=2, image_size=16, method=method)
sys.stdout.write(vbdguard.scan(sys.argv[1], config, cache_dir=sys.argv[2]).to_json())
"""


@dataclass(frozen=True, slots=True)
class Trial:
    """Some kills and what came after them."""

    kills: tuple[str, ...]
    """While a scan was "starting", "reading" or "judging", or that it was "done" before."""
    is_same: bool
    """Whether the report is that of the undisturbed scan."""
    segments_kept: int
    """Whole segments that the last scan found ..."""
    segments_rewritten: int
    """... and wrote again all the same."""
    orphans: int
    """Kills after which a worker lived on for more than two seconds."""
    leftovers: int
    """Half-written things that the last scan left in the cache, of scans killed 10 seconds before and earlier."""
    seconds: float
    """Of the last scan, start to end."""


def main() -> None:
    """Run what the command line asks for; end with 1 if any report differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="file to append one JSON line to")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vbdguard-faults-", ignore_cleanup_errors=True) as scratch:
        record = run(Path(scratch), trials=args.trials, seed=args.seed)
    print(json.dumps({name: value for name, value in record.items() if name != "each"}, indent=2))
    if args.out:
        append_record(args.out, record)
    sys.exit(0 if record["same"] == args.trials else 1)


def run(scratch: Path, *, trials: int, seed: int) -> dict[str, Any]:
    """Return the record of a bench.

    Args:
        scratch: an empty folder.
        trials: how many.
        seed: draws moments, and how often and what is killed.
    """
    data = scratch / "data"
    write_point(POINT, data, seed=seed, per_shard=POINT.samples // SHARDS)
    truncated = sorted(data.iterdir())[-1]
    truncated.write_bytes(truncated.read_bytes()[: truncated.stat().st_size // 2])
    expected, seconds, seconds_reading = undisturbed(data, scratch / "undisturbed")
    rng = random.Random(seed)
    done = []
    for number in range(trials):
        done.append(disturbed(data, scratch / "cache", expected, rng, (seconds, seconds_reading)))
        print(f"{number + 1:4d}  {done[-1]}", file=sys.stderr, flush=True)
        shutil.rmtree(scratch / "cache")
    return {
        "trials": trials,
        "same": sum(trial.is_same for trial in done),
        "kills": dict(Counter(kill for trial in done for kill in trial.kills)),
        "segments_kept": sum(trial.segments_kept for trial in done),
        "segments_rewritten": sum(trial.segments_rewritten for trial in done),
        "orphans": sum(trial.orphans for trial in done),
        "leftovers": sum(trial.leftovers for trial in done),
        "seconds_undisturbed": round(seconds, 2),
        "seconds_until_read": round(seconds_reading, 2),
        "seconds_continued": round(statistics.median(trial.seconds for trial in done), 2),
        "verdict": json.loads(expected)["verdict"],
        "seed": seed,
        "point": asdict(POINT),
        "shards": SHARDS,
        "environment": environment("cpu"),
        "each": [asdict(trial) for trial in done],
    }


def undisturbed(data: Path, cache: Path) -> tuple[str, float, float]:
    """Return a report, timeless, and seconds from the start of the process to its end and to the last shard."""
    begun = time.time()
    report = finished(data, cache)
    return report, time.time() - begun, max(segments(cache).values()) / 1e9 - begun


def disturbed(data: Path, cache: Path, expected: str, rng: random.Random, spans: Sequence[float]) -> Trial:
    """Return what came of one trial.

    Args:
        data: the shards.
        cache: a folder that is not there yet.
        expected: the undisturbed report, timeless.
        rng: draws.
        spans: in seconds; each moment is drawn from one of them.
    """
    kills, orphans = [], 0
    for _ in range(rng.randint(1, 2)):
        kill, is_orphaned = killed(data, cache, rng.uniform(0, rng.choice(spans)), is_alone=rng.random() < 0.5)
        kills.append(kill)
        orphans += is_orphaned
    before = segments(cache)
    begun = time.perf_counter()
    report = finished(data, cache)
    took = time.perf_counter() - begun
    after = segments(cache)
    left = [path for path in (cache / "segments").glob(".*") if time.time() - path.stat().st_mtime > took + 10]
    rewritten = sum(after.get(name) != stamp for name, stamp in before.items())
    return Trial(tuple(kills), report == expected, len(before), rewritten, orphans, len(left), round(took, 2))


def killed(data: Path, cache: Path, seconds: float, *, is_alone: bool) -> tuple[str, bool]:
    """Kill a scan after some seconds; return what it was at, and whether a worker lived on.

    Args:
        data: the shards.
        cache: of the scan.
        seconds: from its start.
        is_alone: whether to kill the main process only, as the kernel does when memory runs out.
    """
    process = _start(data, cache)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        (os.kill if is_alone else os.killpg)(process.pid, signal.SIGKILL)
    process.communicate()
    stage = "done" if process.returncode >= 0 else _stage(cache)
    deadline = time.monotonic() + SECONDS_TO_STOP
    while _lives(process.pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    if is_orphaned := _lives(process.pid):
        os.killpg(process.pid, signal.SIGKILL)
    return stage, is_orphaned


def finished(data: Path, cache: Path) -> str:
    """Return the report of a scan that is let alone, without its timings.

    Raises:
        RuntimeError: if it fails.
    """
    process = _start(data, cache)
    out, error = process.communicate()
    if process.returncode:
        raise RuntimeError(f"the scan failed with {process.returncode}: {error}")
    body = json.loads(out)
    del body["timings"]
    return json.dumps(body)


def segments(cache: Path) -> dict[str, int]:
    """Return the whole segments in a cache, each with the time when it was written, in nanoseconds."""
    folder = cache / "segments"
    if not folder.is_dir():
        return {}
    return {
        path.name: (path / "samples.json").stat().st_mtime_ns
        for path in folder.iterdir()
        if not path.name.startswith(".")
    }


def _stage(cache: Path) -> str:
    found = len(segments(cache))
    if any((cache / "reports").glob("*.json")):
        return "saved"
    if found == SHARDS:
        return "judging"
    return "reading" if found or any((cache / "segments").glob(".*")) else "starting"


def _start(data: Path, cache: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _SCAN, str(data), str(cache)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def _lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


if __name__ == "__main__":
    main()
