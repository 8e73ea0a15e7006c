"""Who imports whom, and what stays unloaded."""

from __future__ import annotations

import ast
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LIGHT_ROOMS = ("attacks", "cache", "config", "errors", "ingest", "progress", "report", "sources")


def light_modules() -> list[str]:
    names = ["vbdguard", "vbdguard.cli.main"]
    for room in LIGHT_ROOMS:
        names.append(f"vbdguard.{room}")
        folder = ROOT / "vbdguard" / room
        names += [f"vbdguard.{room}.{module.name}" for module in pkgutil.iter_modules([str(folder)])]
    return names


def loads_torch(code: str) -> bool:
    check = f"{code}\nimport sys; sys.exit(9 if 'torch' in sys.modules else 0)"
    result = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=False)
    assert result.returncode in (0, 9), result.stderr
    return result.returncode == 9


def test_light_modules_load_no_torch() -> None:
    names = [name for name in light_modules() if name != "vbdguard.sources.torch_dataset"]
    assert "vbdguard.ingest.decode" in names
    assert not loads_torch("\n".join(f"import {name}" for name in names))


def test_the_check_for_torch_can_fail() -> None:
    assert loads_torch("import torch")


def modules_of(room: str) -> Iterator[Path]:
    top = ROOT / room if room in ("cli", "hooks") else ROOT / "vbdguard" / room
    yield from top.rglob("*.py") if top.is_dir() else [top.with_suffix(".py")]


def rooms() -> list[str]:
    inner = {
        path.stem for path in (ROOT / "vbdguard").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    return [*sorted(inner - {"__init__"}), "cli", "hooks"]


def imported_rooms(room: str) -> set[str]:
    """The rooms of the house that a room's modules name in absolute imports."""
    found = set()
    for path in modules_of(room):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            else:
                continue
            found |= {name.split(".")[1] for name in names if name.startswith("vbdguard.")}
    return found & set(rooms()) - {room}


def test_rooms_import_without_a_circle() -> None:
    TopologicalSorter({room: imported_rooms(room) for room in rooms()}).prepare()


def test_the_check_for_circles_can_fail() -> None:
    with pytest.raises(CycleError):
        TopologicalSorter({"ingest": {"sources"}, "sources": {"ingest"}}).prepare()
    assert "errors" in imported_rooms("sources")


@pytest.mark.parametrize("room", rooms())
def test_the_core_imports_neither_commands_nor_hooks(room: str) -> None:
    assert not imported_rooms(room) & {"cli", "hooks"}


def test_only_the_command_line_prints() -> None:
    for room in set(rooms()) - {"cli"}:
        for path in modules_of(room):
            calls = (
                node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)
            )
            assert not [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "print"], path
