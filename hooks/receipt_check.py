"""For pre-commit: check the receipts that the files of a commit concern, or renew them by a scan.

    vbdguard-receipt-check [--receipt FILE]... [--scan] [--source SOURCE]... [FILE...]

A file concerns a receipt if it is the receipt, lies in the receipt's data (or is the .dvc file of them), or holds
settings. Without files every receipt is checked. Checking runs `vbdguard verify`, which needs no torch; with --scan
data that changed are scanned by `vbdguard scan` and their receipt is renewed, to be added to the commit.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from vbdguard.errors import ReceiptError, VBDGuardError
from vbdguard.escaping import printable
from vbdguard.receipt import DEFAULT_NAME, Receipt, sources_from
from vbdguard.settings import Settings, find_settings

_CONCERN_ALL = frozenset({"vbdguard.toml", "dvc.lock"})
_CHANGED = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Check or renew receipts; return 0, or the gravest exit code of what was run: 1 before 2 and 3."""
    options = _parse(arguments)
    try:
        settings = find_settings()
        receipts = options.receipt or [Path(settings.values.get("receipt", DEFAULT_NAME))]
        concerned = [path for path in receipts if not options.files or _is_concerned(path, options.files, settings)]
        if not concerned:
            names = ", ".join(map(str, receipts))
            _say(f"none of the {len(options.files)} files given concerns {names}; nothing to check")
            return 0
        check = _renew if options.scan else _verify
        codes = {check(path, options) for path in concerned}
    except (VBDGuardError, OSError) as error:
        _say(f"error: {error}")
        return _CHANGED
    return 1 if 1 in codes else max(codes)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="vbdguard-receipt-check", description="Check the receipts of a commit's data."
    )
    parser.add_argument("--receipt", action="append", type=Path, metavar="FILE", help=f"default: {DEFAULT_NAME}")
    parser.add_argument("--scan", action="store_true", help="scan what changed, and renew its receipt")
    parser.add_argument("--source", action="append", default=[], help="the data, where there is no receipt yet")
    parser.add_argument("--baseline", metavar="FILE", help="accepted findings")
    parser.add_argument("--fail-on", choices=["never", "suspicious", "poisoned"])
    parser.add_argument("files", nargs="*", metavar="FILE", help="what the commit changes")
    return parser.parse_args(arguments)


def _is_concerned(path: Path, files: Sequence[str], settings: Settings) -> bool:
    """Return whether one of the files may change what a receipt vouches for."""
    own = {_full(path), *([] if settings.path is None else [_full(settings.path)])}
    if any(Path(file).name in _CONCERN_ALL or _full(file) in own for file in files):
        return True
    try:
        sources = sources_from(Receipt.read(path), path)
    except ReceiptError:
        return True  # it vouches for nothing; whoever commits should hear why
    roots = [_root(part) for source in sources for part in source.split("::") if "://" not in part]
    return any(_touches(file, root) for file in files for root in roots)


def _full(path: str | Path) -> Path:
    return Path(os.path.abspath(path))  # noqa: PTH100  # links stay links: DVC puts them in the place of data


def _root(source: str) -> Path:
    """Return the folder or file that holds all that a source may name."""
    fixed = re.split(r"[*?\[{]", source, maxsplit=1)[0]
    return _full(source if fixed == source else os.path.dirname(fixed) or ".")  # noqa: PTH120  # "a/" is not "a"


def _touches(file: str, root: Path) -> bool:
    data = _full(file.removesuffix(".dvc"))
    return data.is_relative_to(root) or (file.endswith(".dvc") and root.is_relative_to(data))


def _verify(path: Path, options: argparse.Namespace) -> int:
    return _run("verify", [], path, options)


def _renew(path: Path, options: argparse.Namespace) -> int:
    """Verify, and where that fails for another reason than poison, scan and renew the receipt."""
    code = _verify(path, options) if path.exists() else _CHANGED
    if code != _CHANGED:
        return code
    code = _run("scan", options.source or _known_sources(path), path, options)
    if code == 0:
        _say(f"{path} is renewed; add it: git add {path}")
    return code


def _known_sources(path: Path) -> Sequence[str]:
    try:
        return sources_from(Receipt.read(path), path)
    except ReceiptError as error:
        raise ReceiptError(f"{error}, or name the data in the hook's args: [--source, DATA]") from error


def _run(command: str, sources: Sequence[str], path: Path, options: argparse.Namespace) -> int:
    """Run vbdguard's command line as a person would, and show what was run."""
    extras = {"--receipt": path, "--baseline": options.baseline, "--fail-on": options.fail_on}
    flags = [word for name, value in extras.items() if value is not None for word in (name, str(value))]
    words = [command, *sources, *flags]
    _say("$ vbdguard " + " ".join(map(shlex.quote, words)))
    code = subprocess.run([sys.executable, "-m", "vbdguard.cli.main", *words], check=False).returncode  # noqa: S603
    return code if code >= 0 else 128 - code  # ended by a signal, as a shell says it


def _say(line: str) -> None:
    sys.stdout.write(f"{printable(line)}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
