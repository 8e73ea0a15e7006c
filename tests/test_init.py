"""The public names, and that they cost nothing before they are used."""

from __future__ import annotations

import subprocess
import sys

import pytest

import vbdguard


def loads_torch(statements: str) -> bool:
    script = f"import sys; {statements}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return done.stdout.strip() == "True"


@pytest.mark.parametrize(
    "statements",
    ["import vbdguard", "import vbdguard; dir(vbdguard)", "from vbdguard import ScanConfig, ScanReport; ScanConfig()"],
)
def test_names_that_need_no_torch_load_none(statements: str) -> None:
    assert not loads_torch(statements)


def test_the_guard_loads_torch_when_it_is_named() -> None:
    assert loads_torch("from vbdguard import GuardedDataset")


@pytest.mark.parametrize("name", vbdguard.__all__)
def test_every_public_name_is_there_and_listed(name: str) -> None:
    assert getattr(vbdguard, name) is getattr(vbdguard, name)
    assert name in dir(vbdguard)


def test_scan_is_the_function() -> None:
    assert callable(vbdguard.scan)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'vbdguard' has no attribute 'nothing'"):
        _ = vbdguard.nothing
