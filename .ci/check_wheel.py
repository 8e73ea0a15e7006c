"""Install a wheel into an environment of its own and use it there, far from the checkout.

The dependencies are lent by the environment that runs this script, since they weigh gigabytes.

usage: python .ci/check_wheel.py dist/vbdguard-*.whl
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MAKE_SHARDS = """
from pathlib import Path
from vbdguard.cli.demo_data import DemoSet
from vbdguard.sources.writing import write_shards
write_shards(DemoSet().samples(), Path("clean"), per_shard=3000)
"""
WHERE = "import vbdguard, vbdguard.cli.main, vbdguard.hooks; print(vbdguard.__file__)"


def check_contents(wheel: Path) -> None:
    """Compare the wheel's files with the checkout's."""
    expected = {"vbdguard/py.typed", "vbdguard/report.schema.json"}
    for top, inside in (("vbdguard", "vbdguard"), ("cli", "vbdguard/cli"), ("hooks", "vbdguard/hooks")):
        for path in (ROOT / top).rglob("*.py"):
            expected.add(f"{inside}/{path.relative_to(ROOT / top).as_posix()}")
    found = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    if missing := expected - found:
        sys.exit(f"{wheel.name}: expected these files, they are missing: {sorted(missing)}")
    if surplus := {name for name in found if name.endswith(".py")} - expected:
        sys.exit(f"{wheel.name}: these modules are not in the checkout: {sorted(surplus)}")


def install(wheel: Path, folder: Path) -> Path:
    """Install the wheel, and nothing else, into a new environment; return its folder of scripts."""
    venv.create(folder, with_pip=False, symlinks=os.name != "nt")
    scripts = folder / ("Scripts" if os.name == "nt" else "bin")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(scripts / "python")]
    run([*pip, "install", "--no-deps", "--no-index", str(wheel)], cwd=folder)
    (site_packages,) = folder.glob("Lib/site-packages" if os.name == "nt" else "lib/python*/site-packages")
    landed = {path.name for path in site_packages.iterdir()}
    stem = "-".join(wheel.name.split("-")[:2])
    if landed != {"vbdguard", f"{stem}.dist-info"}:
        sys.exit(f"expected only vbdguard and its dist-info in site-packages, got {sorted(landed)}")
    # A .pth file lends the dependencies; the .pth files over there, the editable install among them, stay unread.
    lent = [entry for entry in sys.path if Path(entry).name in ("site-packages", "dist-packages")]
    (site_packages / "dependencies.pth").write_text("\n".join(lent) + "\n")
    return scripts


def run(command: list[str], *, cwd: Path, code: int = 0) -> str:
    """Run a command, show what it says and return its output.

    Raises:
        SystemExit: if it ends with another exit code.
    """
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(command, cwd=cwd, env=clean, stdout=subprocess.PIPE, text=True, check=False)
    sys.stdout.write(done.stdout)
    if done.returncode != code:
        sys.exit(f"expected exit code {code}, got {done.returncode} from: {' '.join(command)}")
    return done.stdout


def main() -> None:
    """Check the wheel that is named on the command line."""
    wheel = Path(sys.argv[1]).resolve()
    check_contents(wheel)
    with tempfile.TemporaryDirectory(prefix="vbdguard-wheel-") as folder:
        elsewhere = Path(folder)
        scripts = install(wheel, elsewhere / "venv")
        python, vbdguard = str(scripts / "python"), str(scripts / "vbdguard")
        where = Path(run([python, "-c", WHERE], cwd=elsewhere).strip())
        if not where.is_relative_to(elsewhere):
            sys.exit(f"expected vbdguard from {elsewhere}, got {where}")
        run([vbdguard, "--help"], cwd=elsewhere)
        run([python, "-c", MAKE_SHARDS], cwd=elsewhere)
        run([vbdguard, "poison", "clean", "drill", "--trigger", "color_grid", "--target", "3"], cwd=elsewhere)
        run([vbdguard, "scan", "drill", "--no-cache"], cwd=elsewhere, code=1)
    print(f"{wheel.name}: installs alone, runs elsewhere and finds the trigger")


if __name__ == "__main__":
    main()
