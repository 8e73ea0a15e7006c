"""Writes inputs to begin with, one folder for each target of fuzz.py.

python tests/fuzz/seeds.py FOLDER
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "hostile"))

from hostile_corpus import CASES

PREFIXES = {
    "tar": ("tar-", "label-"),
    "compressed": ("gz-", "bz2-", "xz-", "zst-"),
    "manifest": ("csv-", "jsonl-"),
    "npz": ("npz-",),
    "arrow": ("arrow-",),
    "parquet": ("parquet-",),
}
MAX_BYTES = 64 << 10


def write_seeds(folder: Path) -> None:
    """Write the small files of the hostile corpus, and the whole ones beside them, by what reads them."""
    for target, prefixes in PREFIXES.items():
        (folder / target).mkdir(parents=True, exist_ok=True)
        for case in CASES:
            if case.name.startswith(prefixes) and "bomb" not in case.name:
                _copy(case.write, folder / target, case.name)
    from hostile_corpus.images import BOMBS, BROKEN, FORMATS

    (folder / "image").mkdir(exist_ok=True)
    for name, data in (FORMATS | BROKEN | BOMBS).items():
        if len(data) <= MAX_BYTES:
            (folder / "image" / name).write_bytes(data)


def _copy(write: object, dest: Path, name: str) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        write(Path(scratch))  # type: ignore[operator]
        for path in Path(scratch).iterdir():
            if path.suffix != ".png" and path.is_file() and path.stat().st_size <= MAX_BYTES:
                shutil.copy(path, dest / f"{name}-{path.name}")


if __name__ == "__main__":
    write_seeds(Path(sys.argv[1]))
