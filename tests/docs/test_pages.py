"""The documentation as a whole: nothing is missing from it, and its links lead somewhere."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import click
import pytest

from vbdguard.cli.main import main

ROOT = Path(__file__).resolve().parent.parent.parent
DOCS = ROOT / "docs"
PAGES = sorted([ROOT / "README.md", *DOCS.glob("*.md")])


@pytest.fixture
def build_hooks() -> ModuleType:
    spec = spec_from_file_location("build_hooks", DOCS / "build_hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def commands(group: click.Group, words: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield (*words, name)
        if isinstance(command, click.Group):
            yield from commands(command, (*words, name))


def test_every_command_has_its_help_on_the_page_of_commands(build_hooks: ModuleType) -> None:
    page = (DOCS / "commands.md").read_text()
    assert {tuple(match.split()) for match in build_hooks.HELP.findall(page)} == {(), *commands(main)}
    built = build_hooks.on_page_markdown(page)
    assert "<!-- help" not in built
    assert "Usage: vbdguard verify [OPTIONS]" in built


@pytest.mark.parametrize("words", [*commands(main)], ids=" ".join)
def test_every_commands_help_teaches_by_example(words: tuple[str, ...], build_hooks: ModuleType) -> None:
    text = build_hooks.help_of(list(words))
    inner = words[:1] if len(words) > 1 and "Examples:" not in text else words
    assert f"vbdguard {' '.join(words)}" in build_hooks.help_of(list(inner)).split("Examples:")[1]


def test_every_setting_is_explained() -> None:
    from vbdguard.settings import SETTINGS

    guide = (DOCS / "guide.md").read_text().split("## Settings")[1]
    for name in SETTINGS:
        assert f"`{name}`" in guide, name


def test_every_public_name_stands_in_the_reference() -> None:
    import vbdguard

    reference = (DOCS / "python.md").read_text()
    for name in vbdguard.__all__:
        if name != "__version__":
            assert re.search(rf"^::: \S+\.{name}$", reference, flags=re.MULTILINE), name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings_that_are_there(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        linked = page.parent / file if file else page
        assert linked.exists(), target
        if anchor:
            assert anchor in {slug(heading) for heading in re.findall(r"^#+ (.+)$", linked.read_text(), re.MULTILINE)}


def slug(heading: str) -> str:
    return re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower())


def test_the_readme_stays_one_page() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 170
