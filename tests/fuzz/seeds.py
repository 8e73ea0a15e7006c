"""Writes inputs to begin with, one folder for each target of fuzz.py.

python tests/fuzz/seeds.py FOLDER
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "hostile"))
sys.path.append(str(Path(__file__).parents[1]))

from hostile_corpus import CASES
from test_report import small_report

PREFIXES = {
    "tar": ("tar-", "label-"),
    "compressed": ("gz-", "bz2-", "xz-", "zst-"),
    "manifest": ("csv-", "jsonl-"),
    "npz": ("npz-",),
    "arrow": ("arrow-",),
    "parquet": ("parquet-",),
}
MAX_BYTES = 64 << 10
BRACES = ("train-{000000..000009}.tar", "{a,b}-{0..3}.tar", "s3://bucket/{x..z}.tar", "{{}}", "{9..0}")


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

    for target in ("report", "braces", "kind"):
        (folder / target).mkdir(exist_ok=True)
    (folder / "report" / "small.json").write_text(small_report().to_json())
    for number, pattern in enumerate(BRACES):
        (folder / "braces" / str(number)).write_text(pattern)
    for path in [*folder.glob("image/*"), *(next(folder.glob(f"{target}/*")) for target in PREFIXES)]:
        shutil.copy(path, folder / "kind" / path.name)


def _copy(write: object, dest: Path, name: str) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        write(Path(scratch))  # type: ignore[operator]
        for path in Path(scratch).iterdir():
            if path.suffix != ".png" and path.is_file() and path.stat().st_size <= MAX_BYTES:
                shutil.copy(path, dest / f"{name}-{path.name}")


if __name__ == "__main__":
    write_seeds(Path(sys.argv[1]))
