"""What is installed is what lies in the folders."""

from __future__ import annotations

import fnmatch
import os
import re
import tomllib
from importlib.metadata import entry_points, metadata
from pathlib import Path
from typing import Any

import vbdguard

ROOT = Path(__file__).resolve().parent.parent
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SETUPTOOLS = PROJECT["tool"]["setuptools"]
GENERATED = {"__pycache__"}


def folder_of(package: str) -> Path:
    return ROOT / SETUPTOOLS["package-dir"].get(package, package.replace(".", "/"))


def packages_in_the_folders() -> set[str]:
    found = set()
    for name, top in (("vbdguard", "vbdguard"), ("vbdguard.cli", "cli"), ("vbdguard.hooks", "hooks")):
        for folder, _, files in os.walk(ROOT / top):
            if any(file.endswith(".py") for file in files):
                found.add(".".join((name, *Path(folder).relative_to(ROOT / top).parts)))
    return found


def test_the_list_of_packages_is_that_of_the_folders() -> None:
    assert set(SETUPTOOLS["packages"]) == packages_in_the_folders()


def test_every_package_has_an_init_that_says_what_it_is() -> None:
    for package in SETUPTOOLS["packages"]:
        init = folder_of(package) / "__init__.py"
        assert init.is_file(), init
        assert '"""' in init.read_text(encoding="utf-8"), init


def test_every_file_that_is_not_python_is_package_data() -> None:
    data = SETUPTOOLS["package-data"]
    for package in SETUPTOOLS["packages"]:
        inner = [folder_of(other) for other in SETUPTOOLS["packages"] if other != package]
        for path in folder_of(package).rglob("*"):
            if path.is_dir() or path.suffix == ".py" or GENERATED & set(path.parts) or path.name.startswith("."):
                continue
            if any(path.is_relative_to(folder) and folder.is_relative_to(folder_of(package)) for folder in inner):
                continue
            name = path.relative_to(folder_of(package)).as_posix()
            patterns = [*data.get("*", []), *data.get(package, [])]
            assert any(fnmatch.fnmatch(name, pattern) for pattern in patterns), f"{path} would not be installed"


def test_the_version_is_said_once() -> None:
    assert PROJECT["project"]["dynamic"] == ["version"]
    assert metadata("vbdguard")["Version"] == vbdguard.__version__
    assert f"## [{vbdguard.__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_command_starts_the_group() -> None:
    from vbdguard.cli.main import main

    (script,) = entry_points(group="console_scripts", name="vbdguard")
    assert script.load() is main


def test_nothing_else_lands_at_the_top_of_site_packages() -> None:
    assert {package.split(".")[0] for package in SETUPTOOLS["packages"]} == {"vbdguard"}


def test_constraints_are_names_and_versions_of_everything_required() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9][a-z0-9-]*==[0-9][0-9a-z.]*", pin) for pin in pins)
    names = [pin.split("==")[0] for pin in pins]
    assert names == sorted(set(names))
    required = {re.split(r"[<>=\[ ]", item)[0] for item in PROJECT["project"]["dependencies"]}
    assert required <= set(names)


def test_constraints_hold_nothing_of_one_platform() -> None:
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    assert not re.findall(r"^(nvidia|cuda|triton)", text, flags=re.MULTILINE)


def test_dependencies_have_lower_bounds_only() -> None:
    extras = PROJECT["project"]["optional-dependencies"].values()
    for item in [*PROJECT["project"]["dependencies"], *(item for extra in extras for item in extra)]:
        assert item.startswith("vbdguard[") or re.fullmatch(r"[a-z0-9-]+>=[0-9.]+", item), item


def test_the_licence_is_the_unmodified_apache_text() -> None:
    from hashlib import sha256

    # The digest of https://www.apache.org/licenses/LICENSE-2.0.txt
    expected = "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"
    assert sha256((ROOT / "LICENSE").read_bytes()).hexdigest() == expected
