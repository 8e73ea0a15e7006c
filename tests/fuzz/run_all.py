"""Fuzzes every reader, one after the other, each for so many minutes; what they found stands in the folder afterwards.

    python tests/fuzz/run_all.py FOLDER --minutes 60
    python tests/fuzz/run_all.py FOLDER --minutes 60 --only tar image

    FOLDER/seeds/<target>     inputs to begin with, written if they are missing
    FOLDER/corpus/<target>    inputs that reached something new; the next run goes on from them
    FOLDER/found/<target>     what broke a reader; empty is good
    FOLDER/logs/<target>.log  libFuzzer's own words
    FOLDER/summary.tsv        a line for each run of a target: seconds by the clock, seconds of the processor,
                              inputs, coverage, exit status, findings

Ctrl-C or SIGTERM ends the target that is at work and writes its line; what it has learned is kept. An exit
status below 0 is the signal that ended a target. Exits with 1 if a target found something, else with 0.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

HERE = Path(__file__).parent
TARGETS = ("tar", "compressed", "image", "manifest", "npz", "arrow", "parquet", "kind", "braces", "report")
OPTIONS = ("-timeout=10", "-rss_limit_mb=2000", "-max_len=16384", "-print_final_stats=1")
_HEAD = "target\tseconds\tprocessor\tinputs\tcoverage\texit\tfound\n"
_GRACE = 30
"""Seconds that a target has to end in when it was asked to: it may be at one slow input."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one target's run came to."""

    target: str
    seconds: float
    processor_seconds: float
    """What it got of them; less where the machine has other work."""
    inputs: int
    coverage: int
    """libFuzzer's count of places in the code that some input reached."""
    exit_status: int
    found: int
    """Files in its folder of findings, from this run and earlier ones."""

    def line(self) -> str:
        """Return it as a line of the summary."""
        times = f"{self.seconds:.0f}\t{self.processor_seconds:.0f}"
        return f"{self.target}\t{times}\t{self.inputs}\t{self.coverage}\t{self.exit_status}\t{self.found}\n"


class Stop:
    """Remembers that the user wants an end."""

    def __init__(self) -> None:
        self.is_wanted = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._take)

    def _take(self, number: int, frame: FrameType | None) -> None:
        self.is_wanted = True


def fuzz(target: str, folder: Path, minutes: float, stop: Stop) -> Outcome:
    """Run one target until its time is up, it finds something or the user wants an end."""
    corpus, seeds, found = (folder / kind / target for kind in ("corpus", "seeds", "found"))
    for one in (corpus, seeds, found):
        one.mkdir(parents=True, exist_ok=True)
    log = folder / "logs" / f"{target}.log"
    log.parent.mkdir(exist_ok=True)
    command = [
        sys.executable,
        str(HERE / "fuzz.py"),
        target,
        f"-max_total_time={max(1, round(60 * minutes))}",
        *OPTIONS,
    ]
    begun, used = time.monotonic(), _processor_seconds()
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, f"-artifact_prefix={found}/", str(corpus), str(seeds)],
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=found,  # where a target itself leaves what it disagrees with
            start_new_session=True,  # Ctrl-C is for this script to pass on
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        status = _wait(process, stop)
    said = log.read_text(errors="replace")
    return Outcome(
        target,
        time.monotonic() - begun,
        _processor_seconds() - used,
        _last_number(r"#(\d+)\t", said),
        _last_number(r"cov: (\d+)", said),
        status,
        sum(1 for _ in found.iterdir()),
    )


def _wait(process: subprocess.Popen[bytes], stop: Stop) -> int:
    """Return the exit status; a target that does not end when it is asked to is killed."""
    asked = 0.0
    while process.poll() is None:
        if stop.is_wanted and not asked:
            asked = time.monotonic()
            process.send_signal(signal.SIGINT)  # libFuzzer then prints its figures and leaves
        if asked and time.monotonic() - asked > _GRACE:
            process.kill()
        time.sleep(0.2)
    return process.wait()


def _processor_seconds() -> float:
    """Return what the targets that have ended used."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _last_number(pattern: str, text: str) -> int:
    numbers = re.findall(pattern, text)
    return int(numbers[-1]) if numbers else 0


def main() -> int:
    """Run what the command line asks for; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="for corpus and findings; made where it is missing")
    parser.add_argument("--minutes", type=float, default=60, help="for each target (default: 60)")
    parser.add_argument("--only", nargs="+", choices=TARGETS, default=TARGETS, metavar="TARGET", help="these alone")
    args = parser.parse_args()
    folder = args.folder.resolve()
    stop = Stop()
    if not (folder / "seeds").is_dir():
        subprocess.run([sys.executable, str(HERE / "seeds.py"), str(folder / "seeds")], check=True)
    summary = folder / "summary.tsv"
    if not summary.exists():
        summary.write_text(_HEAD)
    outcomes = []
    for target in args.only:
        if stop.is_wanted:
            break
        outcomes.append(fuzz(target, folder, args.minutes, stop))
        with summary.open("a") as lines:
            lines.write(outcomes[-1].line())
        sys.stdout.write(outcomes[-1].line())
        sys.stdout.flush()
    return int(any(one.found for one in outcomes))


if __name__ == "__main__":
    sys.exit(main())
