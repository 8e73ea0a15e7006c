"""What the README and the documentation show: commands and Python run, settings and workflows are valid.

A command's line says in its comment how it ends ("ends with 1"); otherwise it ends with 0. The README shows commands on
the reader's own data, where 1 is as good an end as 0. Left out are commands that install something, and two that take
minutes and have tests of their own.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from vbdguard.report import ScanReport
from vbdguard.settings import read_settings

ROOT = Path(__file__).resolve().parent.parent.parent
PAGES = (
    "README.md",
    "docs/index.md",
    "docs/guide.md",
    "docs/ci.md",
    "docs/cluster.md",
    "docs/python.md",
    "docs/faq.md",
)
LEFT_OUT = re.compile(r"^(make|pip|pre-commit|git) |^vbdguard (demo|train)\b")
POISON = {"train-000000.tar/s01": 0, "train-000002.tar/s09": None}


@dataclass(frozen=True)
class Block:
    language: str
    text: str


def blocks_of(page: str) -> Iterator[Block]:
    for match in re.finditer(r"^```(\w+)\n(.*?)^```$", (ROOT / page).read_text(), flags=re.MULTILINE | re.DOTALL):
        yield Block(match[1], match[2])


def lines_of(block: Block) -> list[str]:
    return [line.removeprefix("$ ") for line in block.text.splitlines() if line.startswith("$ ")]


@pytest.fixture
def place(
    tmp_path: Path,
    known_data: Callable[..., ScanReport],
    keep_report: Callable[..., ScanReport],
    keep_merged_report: Callable[[ScanReport, Path], None],
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """The reader's folder: poison in shards/ and the same in data/, and images/ without; the cache knows them all."""
    from torchvision.datasets import ImageFolder

    folder = tmp_path / "reader"
    keep_merged_report(known_data("reader/shards", POISON), folder / "shards")
    shutil.copytree(folder / "shards", folder / "data")
    pixels = np.random.default_rng(1).integers(0, 256, (8, 8, 8, 3), np.uint8)
    for number, image in enumerate(pixels):
        into = folder / "images" / f"class{number % 2}"
        into.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(into / f"{number}.png")
    keep_report(str(folder / "images"), {})
    keep_report(ImageFolder(str(folder / "images")), {})
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    return folder


@pytest.mark.parametrize(
    "page", [page for page in PAGES if any(b.language in ("console", "python") for b in blocks_of(page))]
)
def test_the_commands_and_the_python_of_a_page_run_in_their_order(page: str, place: Path) -> None:
    names: dict[str, Any] = given_names(place) if page == "README.md" else {}
    for block in blocks_of(page):
        if block.language == "python":
            exec(compile(block.text, page, "exec"), names)
        for line in lines_of(block) if block.language == "console" else ():
            if not LEFT_OUT.match(line):
                run(line, is_own_data=page == "README.md")


def run(line: str, *, is_own_data: bool) -> None:
    said = re.search(r"# ends with (\d+)", line)
    expected = {int(said[1]) if said else 0} | ({0, 1} if is_own_data else set())
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode in expected, f"{line}\n{done.stdout}\n{done.stderr}"


def given_names(place: Path) -> dict[str, Any]:
    """What the README's lines are put behind: a reader's own loader, data set and stream."""
    import webdataset as wds
    from torch.utils.data import DataLoader
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import ToTensor

    dataset = ImageFolder(str(place / "images"), ToTensor())
    urls = [str(path) for path in sorted((place / "shards").iterdir())]
    return {"dataset": dataset, "loader": DataLoader(dataset, batch_size=8), "urls": urls, "wds": wds}


def test_few_lines_are_left_out() -> None:
    lines = [
        line for page in PAGES for block in blocks_of(page) if block.language == "console" for line in lines_of(block)
    ]
    left_out = [line for line in lines if LEFT_OUT.match(line)]
    assert len(left_out) < len(lines) / 3


@pytest.mark.parametrize("page", PAGES)
def test_settings_on_a_page_are_known_settings(page: str, tmp_path: Path) -> None:
    for block in blocks_of(page):
        if block.language == "toml":
            name = re.match(r"# (\w+\.toml)", block.text)
            assert name is not None, "say in the first line which file it is"
            path = tmp_path / name[1]
            path.write_text(block.text)
            tomllib.loads(block.text)
            assert read_settings(path).values


SCHEMAS = {
    ".github/workflows/data.yml": "vendor.github-workflows",
    ".github/workflows/scan.yml": "vendor.github-workflows",
    ".gitlab-ci.yml": "vendor.gitlab-ci",
}


@pytest.mark.parametrize("page", PAGES)
def test_yaml_on_a_page_is_what_it_says(page: str, tmp_path: Path) -> None:
    for number, block in enumerate(blocks_of(page)):
        if block.language != "yaml":
            continue
        name = re.match(r"# (\S+)", block.text)
        assert name is not None, "say in the first line which file it is"
        path = tmp_path / f"{number}.yaml"
        path.write_text(block.text)
        if name[1] == ".pre-commit-config.yaml":
            command = [sys.executable, "-m", "pre_commit", "validate-config", path]
            known = {hook["id"] for hook in yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())}
            repos = yaml.safe_load(block.text)["repos"]
            assert {hook["id"] for repo in repos for hook in repo["hooks"]} <= known
        elif name[1] in SCHEMAS:
            command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", SCHEMAS[name[1]], path]
        else:
            assert "--8<--" in block.text, f"{name[1]}: no check for this kind of file"
            continue
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_a_workflow_names_inputs_that_the_action_has() -> None:
    known = set(yaml.safe_load((ROOT / "action.yml").read_text())["inputs"])
    used: set[str] = set()
    for block in blocks_of("docs/ci.md"):
        if block.text.startswith("# .github/workflows"):
            for job in yaml.safe_load(block.text)["jobs"].values():
                used |= {name for step in job["steps"] if "vbdguard" in step["uses"] for name in step.get("with", {})}
    assert used
    assert used <= known
