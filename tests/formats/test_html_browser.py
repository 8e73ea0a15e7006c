"""The page in a real browser, where one is installed: nothing is refused, nothing goes beyond the width."""

from __future__ import annotations

import html
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from vbdguard.formats.rendering import render
from vbdguard.report import ScanReport

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FRAME = """<!doctype html><title>waiting</title>
<style>body {{ margin: 0 }} iframe {{ border: 0; width: {width}px; height: 900px }}</style>
<iframe srcdoc="{page}" onload="
  const inner = this.contentDocument;
  const wide = [...inner.body.querySelectorAll('*')].filter((one) => !one.closest('.scroll, svg, .skip')
    && one.getBoundingClientRect().right > inner.documentElement.clientWidth + 1);
  const sideways = inner.documentElement.scrollWidth - inner.documentElement.clientWidth;
  document.title = 'sideways ' + sideways + ', beyond ' + wide.length
    + ', filters ' + inner.querySelectorAll('.filter:not([hidden])').length;
"></iframe>"""


@pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_fits_and_its_script_runs(width: int, evil: ScanReport, huge: ScanReport, tmp_path: Path) -> None:
    for name, report in (("evil", evil), ("huge", huge)):
        frame = tmp_path / f"{name}.html"
        page = html.escape(render(report, "html"))
        frame.write_text(FRAME.format(width=width, page=page), encoding="utf-8")
        command = [
            *(str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"),
            *(f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=20000", "--dump-dom", frame.as_uri()),
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        title = re.search("<title>(.*?)</title>", done.stdout)
        assert title is not None
        filters = {"evil": 0, "huge": 3}[name]
        assert title[1] == f"sideways 0, beyond 0, filters {filters}"
        assert "CONSOLE" not in done.stderr
