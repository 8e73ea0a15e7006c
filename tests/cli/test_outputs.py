from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vbdguard.cli.outputs import kept_for_images, wants_images


def options(**changes: Any) -> dict[str, Any]:
    return {"format_": "text", "output": (), "no_cache": False, "refresh": False, "cache_dir": None, **changes}


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({}, False),
        ({"output": (Path("r.json"), Path("r.md"))}, False),
        ({"output": (Path("r.json"), Path("r.HTML"))}, True),
        ({"format_": "html"}, True),
    ],
)
def test_only_the_page_wants_images(changes: dict[str, Any], wanted: bool) -> None:
    assert wants_images(options(**changes)) == wanted


def test_without_a_cache_the_pixels_stay_until_the_page_is_written() -> None:
    asked = options(format_="html", no_cache=True)
    with kept_for_images(asked) as kept:
        assert not kept["no_cache"]
        assert kept["refresh"]
        assert kept["cache_dir"].is_dir()
        assert not any(kept["cache_dir"].iterdir())
    assert not kept["cache_dir"].exists()


@pytest.mark.parametrize("changes", [{"no_cache": True}, {"format_": "html"}])
def test_otherwise_the_options_are_left_alone(changes: dict[str, Any]) -> None:
    asked = options(**changes)
    with kept_for_images(asked) as kept:
        assert kept is asked
