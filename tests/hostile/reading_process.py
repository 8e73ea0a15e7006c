"""Reads one input after the other, each in a process of its own, and says what came of it and what it took.

    python reading_process.py < requests > answers

A request is a line of JSON with "source", "store" and "cwd"; so is an answer. The processes are forks of this one,
which has loaded what reading needs, so that hundreds of inputs take seconds. In them nothing may start a program,
unpickle or connect: Python's audit events tell whatever does, wherever it stands.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

# Loaded before the forks, and before the audit: what libraries do when they are loaded is not the input's doing.
import numpy.lib.format  # noqa: F401
import pyarrow.parquet  # noqa: F401
import zstandard  # noqa: F401
from PIL import Image

from vbdguard.errors import VBDGuardError
from vbdguard.ingest.reader import ingest

SECONDS = 10
FOREIGN = ("subprocess.", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.startfile", "pickle.", "socket.")


def _watch(seen: list[str]) -> None:
    def hook(event: str, _: object) -> None:
        if event.startswith(FOREIGN):
            seen.append(event)

    sys.addaudithook(hook)


def _read(request: dict[str, str]) -> dict[str, Any]:
    events: list[str] = []
    _watch(events)
    try:
        ingested = ingest(request["source"], store_dir=Path(request["store"]), image_size=(8, 8), jobs=1)
    except VBDGuardError as error:
        answer = {"outcome": type(error).__name__, "reasons": [], "detail": str(error)[:500]}
    except BaseException as error:  # a crash, in Python's sense
        answer = {"outcome": f"crash: {type(error).__name__}: {error}"[:500], "reasons": [], "detail": ""}
    else:
        details = [f"{one.key}: {one.reason}: {one.detail}"[:300] for one in ingested.skipped[:5]]
        answer = {"outcome": ingested.status, "reasons": sorted({one.reason for one in ingested.skipped})}
        answer |= {"detail": details, "samples": len(ingested.store)}
    return answer | {"foreign": events}


def _in_own_process(request: dict[str, str]) -> dict[str, Any]:
    answers = Path(request["store"] + ".answer")
    start = time.monotonic()
    child = os.fork()
    if child == 0:
        try:
            os.chdir(request["cwd"])
            answers.write_text(json.dumps(_read(request)))
        finally:
            os._exit(0)
    while True:
        pid, status, usage = os.wait4(child, os.WNOHANG)
        if pid:
            break
        if time.monotonic() - start > SECONDS:
            os.kill(child, signal.SIGKILL)
            _, status, usage = os.wait4(child, 0)
            break
        time.sleep(0.002)
    took = {"seconds": time.monotonic() - start, "megabytes": usage.ru_maxrss / 1024, "status": status}
    answer = json.loads(answers.read_text()) if answers.exists() else {"outcome": f"killed: status {status}"}
    return answer | took


if __name__ == "__main__":
    Image.init()
    for line in sys.stdin:
        sys.stdout.write(json.dumps(_in_own_process(json.loads(line))) + "\n")
        sys.stdout.flush()
