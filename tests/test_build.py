"""The digest of the code that reads and judges."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from vbdguard import __version__, build


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the sources, which the digest is taken of."""
    copy = tmp_path / "vbdguard"
    shutil.copytree(Path(build.__file__).parent, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(build, "_PACKAGE", copy)
    build.code_digest.cache_clear()
    yield copy
    build.code_digest.cache_clear()


def digest() -> str:
    build.code_digest.cache_clear()
    return build.code_digest()


def test_a_build_is_named_by_version_and_code() -> None:
    version, code = build.build().split("+")
    assert version == __version__
    assert len(code) == 16
    assert int(code, 16) >= 0


@pytest.mark.parametrize("name", ["config.py", "method/direct.py", "ingest/decode.py", "sources/tar.py"])
def test_a_change_of_what_reads_or_judges_is_another_build(package: Path, name: str) -> None:
    before = digest()
    (package / name).write_text((package / name).read_text() + "# changed\n")
    assert digest() != before


def test_reports_pages_and_line_ends_make_no_other_build(package: Path) -> None:
    before = digest()
    (package / "formats" / "html.py").write_text("")
    source = package / "method" / "direct.py"
    source.write_bytes(source.read_bytes().replace(b"\n", b"\r\n"))
    assert digest() == before


def test_a_module_that_moves_is_another_build(package: Path) -> None:
    before = digest()
    (package / "method" / "net.py").rename(package / "method" / "nets.py")
    assert digest() != before
