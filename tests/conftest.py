"""Fixtures for every test: no test touches the user's cache, real data come from outside the project."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give each test a cache of its own, and make the user's real one raise."""
    import platformdirs

    def forbidden(*_: object, **__: object) -> str:
        raise AssertionError("a test asked for the real cache directory; use VBDGUARD_CACHE or pass one")

    monkeypatch.setattr(platformdirs, "user_cache_dir", forbidden)
    directory = tmp_path_factory.mktemp("cache", numbered=True)
    monkeypatch.setenv("VBDGUARD_CACHE", str(directory))
    return directory


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder that holds data/, triggers/ and tools/ (VBDGUARD_TEST_DATA); tests that ask for it skip without."""
    folder = os.environ.get("VBDGUARD_TEST_DATA")
    if not folder:
        pytest.skip("set VBDGUARD_TEST_DATA to the folder that holds data/, triggers/ and tools/")
    if not (Path(folder) / "data").is_dir():
        pytest.fail(f"VBDGUARD_TEST_DATA={folder}: expected a folder with data/ in it")
    return Path(folder)
