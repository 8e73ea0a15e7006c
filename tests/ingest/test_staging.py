"""The staging area: there while a scan runs, gone afterwards, swept where the scan was killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from vbdguard.errors import CacheError
from vbdguard.ingest import staging
from vbdguard.ingest.staging import staging_area

HOLD = """
import sys, time
from pathlib import Path
from vbdguard.ingest.staging import staging_area
with staging_area(Path(sys.argv[1])) as folder:
    (folder / "half.npy").write_text("half a segment")
    print(folder, flush=True)
    time.sleep(60)
"""


def made(store: Path, name: str, *, seconds_ago: float) -> Path:
    folder = store / "segments" / f".staging-{name}"
    folder.mkdir(parents=True)
    (folder / "half.npy").write_text("half a segment")
    os.utime(folder, (time.time() - seconds_ago,) * 2)
    return folder


def test_it_is_gone_afterwards_whatever_happened(tmp_path: Path) -> None:
    with pytest.raises(FileExistsError), staging_area(tmp_path) as folder:
        folder.mkdir()
    assert list((tmp_path / "segments").iterdir()) == []


def test_it_is_gone_even_if_the_user_stops_the_scan_while_it_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unlink, stopped = os.unlink, []

    def interrupted(*args: Any, **options: Any) -> None:
        if not stopped:
            stopped.append(args)
            raise KeyboardInterrupt
        unlink(*args, **options)

    def use_it() -> None:
        with staging_area(tmp_path) as folder:
            (folder / "half.npy").write_text("half a segment")
            monkeypatch.setattr(os, "unlink", interrupted)

    with pytest.raises(KeyboardInterrupt):
        use_it()
    assert stopped
    assert list((tmp_path / "segments").iterdir()) == []


def test_what_a_killed_scan_left_is_swept_and_what_a_living_one_holds_is_not(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process.stdout:
        folder = Path(process.stdout.readline().strip())
    os.utime(folder, (1, 1))
    with staging_area(tmp_path):
        assert (folder / "half.npy").exists()
    process.send_signal(signal.SIGKILL)
    process.wait()
    with staging_area(tmp_path):
        assert not folder.exists()


def test_a_folder_of_a_moment_ago_is_left_to_its_owner_who_may_not_have_locked_it_yet(tmp_path: Path) -> None:
    fresh, older = made(tmp_path, "fresh", seconds_ago=0), made(tmp_path, "older", seconds_ago=60)
    with staging_area(tmp_path):
        assert (fresh.exists(), older.exists()) == (True, False)


def test_where_locks_do_nothing_leftovers_are_swept_after_a_day(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staging, "_is_locked", lambda _: False)
    minutes, days = made(tmp_path, "minutes", seconds_ago=600), made(tmp_path, "days", seconds_ago=90_000)
    with staging_area(tmp_path):
        assert (minutes.exists(), days.exists()) == (True, False)


def test_store_that_cannot_be_written_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CacheError, match="--cache-dir"), staging_area(tmp_path / "file"):
        pass
