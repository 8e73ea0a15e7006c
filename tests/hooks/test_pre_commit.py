"""The two hooks under pre-commit itself, in a repository of their own.

`language: system` runs what is installed here, so these tests need no network. That the small environment of
vbdguard-verify suffices is shown by an interpreter which sees nothing else; with VBDGUARD_TEST_NETWORK=1 pre-commit
builds that environment for real, from the registry, and tries both hooks out.
"""

from __future__ import annotations

import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from vbdguard.receipt import Receipt
from vbdguard.report import ScanReport
from vbdguard.sources.folder import IMAGE_SUFFIXES, MORE_SUFFIXES
from vbdguard.sources.kinds import SUFFIXES

ROOT = Path(__file__).resolve().parent.parent.parent
HOOKS = {hook["id"]: hook for hook in yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())}
PARTS = ("vbdguard", "cli", "hooks", "pyproject.toml", "README.md", "LICENSE", ".pre-commit-hooks.yaml")

Finished = subprocess.CompletedProcess[str]
MakeData = Callable[..., ScanReport]


def environment(home: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    return {
        **kept,
        "PATH": f"{Path(sys.executable).parent}:{kept['PATH']}",
        "PRE_COMMIT_HOME": str(home),
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_SYSTEM": os.devnull,
        **{f"GIT_{who}_{what}": "a@b.c" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
    }


def call(*command: str | Path, cwd: Path) -> Finished:
    return subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env=environment(cwd.parent / "pre-commit"),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def commit(folder: Path) -> str:
    for command in (("init", "-q"), ("add", "-A"), ("commit", "-q", "-m", "all")):
        done = call("git", *command, cwd=folder)
        assert done.returncode == 0, done.stderr
    return call("git", "rev-parse", "HEAD", cwd=folder).stdout.strip()


@pytest.fixture(scope="module")
def hook_repository(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Our own repository as pre-commit would clone it."""
    folder = tmp_path_factory.mktemp("hooks") / "vbdguard-hooks"
    folder.mkdir()
    for part in PARTS:
        source = ROOT / part
        if source.is_dir():
            shutil.copytree(source, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / part)
    return folder, commit(folder)


@pytest.fixture
def scratch(tmp_path: Path, known_data: MakeData, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with four clean shards and their receipt."""
    known_data("scratch/data")
    (tmp_path / "scratch" / "notes.png").write_bytes(b"not data")
    monkeypatch.chdir(tmp_path / "scratch")
    Receipt.of(known_data("scratch/data"), Path("vbdguard.lock")).write(Path("vbdguard.lock"))
    commit(tmp_path / "scratch")
    return tmp_path / "scratch"


def configure(scratch: Path, hook_repository: tuple[Path, str]) -> None:
    repository, revision = hook_repository
    installed = {"language": "system", "additional_dependencies": []}
    hooks = [{"id": name, **installed} for name in HOOKS]
    config = {"repos": [{"repo": str(repository), "rev": revision, "hooks": hooks}]}
    (scratch / ".pre-commit-config.yaml").write_text(yaml.safe_dump(config))
    commit(scratch)


def change(scratch: Path, name: str = "data/train-000002.tar") -> None:
    content = bytearray((scratch / name).read_bytes())
    content[700] ^= 1
    (scratch / name).write_bytes(content)
    call("git", "add", "-A", cwd=scratch)


def test_the_manifest_is_valid() -> None:
    done = call("pre-commit", "validate-manifest", ROOT / ".pre-commit-hooks.yaml", cwd=ROOT)
    assert done.returncode == 0, done.stdout


def test_an_unchanged_shard_passes_in_under_two_seconds(scratch: Path, hook_repository: tuple[Path, str]) -> None:
    configure(scratch, hook_repository)
    call("pre-commit", "run", "vbdguard-verify", "--all-files", cwd=scratch)  # clones
    start = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = call("pre-commit", "run", "vbdguard-verify", "--all-files", "--verbose", cwd=scratch)
    end = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stdout
    assert "CLEAN: 4 shards, 16 samples, unchanged" in done.stdout
    # Of processor time, which other work on the machine does not lengthen.
    assert end.ru_utime + end.ru_stime - start.ru_utime - start.ru_stime < 2


def test_a_changed_shard_fails_by_name_with_what_to_type(scratch: Path, hook_repository: tuple[Path, str]) -> None:
    configure(scratch, hook_repository)
    change(scratch)
    done = call("pre-commit", "run", "vbdguard-verify", cwd=scratch)
    assert done.returncode == 1
    assert "- exit code: 2" in done.stdout
    assert re.search(r"changed +train-000002\.tar\n", done.stdout)
    assert "vbdguard scan data --receipt vbdguard.lock" in done.stdout


def test_files_that_are_no_data_are_passed_over(scratch: Path, hook_repository: tuple[Path, str]) -> None:
    configure(scratch, hook_repository)
    (scratch / "notes.txt").write_text("words")
    call("git", "add", "-A", cwd=scratch)
    assert "no files to check" in call("pre-commit", "run", cwd=scratch).stdout
    (scratch / "notes.png").write_bytes(b"still no data")
    call("git", "add", "-A", cwd=scratch)
    done = call("pre-commit", "run", "--verbose", cwd=scratch)
    assert done.returncode == 0
    assert "none of the 1 files given concerns vbdguard.lock" in done.stdout


def test_the_scan_hook_renews_the_receipt_when_asked_for(
    scratch: Path, hook_repository: tuple[Path, str], known_data: MakeData
) -> None:
    configure(scratch, hook_repository)
    shutil.rmtree(scratch / "data")
    known_data("scratch/data", seed=7)
    call("git", "add", "-A", cwd=scratch)
    assert call("pre-commit", "run", "vbdguard-verify", cwd=scratch).returncode == 1
    done = call("pre-commit", "run", "--hook-stage", "manual", "vbdguard-scan", cwd=scratch)
    assert "vbdguard.lock is renewed; add it: git add vbdguard.lock" in done.stdout, done.stdout
    assert "files were modified by this hook" in done.stdout
    call("git", "add", "-A", cwd=scratch)
    done = call("pre-commit", "run", "--hook-stage", "manual", "--all-files", cwd=scratch)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("hook", HOOKS)
def test_every_suffix_of_data_calls_the_hooks_in_either_case(hook: str) -> None:
    files = re.compile(HOOKS[hook]["files"])
    suffixes = [*(suffix for kind in SUFFIXES.values() for suffix in kind), *IMAGE_SUFFIXES, *MORE_SUFFIXES]
    missed = [name for suffix in suffixes for name in (suffix, suffix.upper()) if not files.search(f"data/a{name}")]
    assert missed == []
    assert not files.search("notes.txt")
    assert not files.search("data/npz")


def test_the_scan_does_not_run_at_each_commit() -> None:
    assert HOOKS["vbdguard-scan"]["stages"] == ["pre-push", "manual"]
    assert HOOKS["vbdguard-scan"]["language"] == "system"
    assert "pre-commit" in HOOKS["vbdguard-verify"]["stages"]


def test_the_packages_of_the_light_hook_are_all_that_it_imports(scratch: Path, tmp_path: Path) -> None:
    """They suffice for an interpreter that sees the standard library, our code and them."""
    packages = HOOKS["vbdguard-verify"]["additional_dependencies"]
    assert packages[0] == "--no-deps"
    site = tmp_path / "site"
    (site / "vbdguard").mkdir(parents=True)
    for folder, inside in (("vbdguard", "vbdguard"), ("cli", "vbdguard/cli"), ("hooks", "vbdguard/hooks")):
        shutil.copytree(ROOT / folder, site / inside, dirs_exist_ok=True)
    for package in packages[1:]:
        spec = find_spec(package)
        assert spec is not None
        assert spec.submodule_search_locations
        for home in spec.submodule_search_locations:
            (site / package).symlink_to(home)
            for libraries in Path(home).parent.glob(f"{package}.libs"):
                (site / libraries.name).symlink_to(libraries)
    for code, words in (
        ("from vbdguard.cli.main import main; main(['verify'])", "CLEAN: 4 shards"),
        ("from vbdguard.hooks.receipt_check import main; main(['notes.png'])", "nothing to check"),
    ):
        # -S: no site-packages, not even those of this environment
        command = [sys.executable, "-S", "-c", f"import sys; sys.path.insert(0, {str(site)!r}); {code}"]
        done = subprocess.run(command, cwd=scratch, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr
        assert words in done.stdout


@pytest.mark.skipif(os.environ.get("VBDGUARD_TEST_NETWORK", "") in ("", "0"), reason="set VBDGUARD_TEST_NETWORK=1")
def test_try_repo_installs_the_light_environment_and_runs_both_hooks(
    scratch: Path, hook_repository: tuple[Path, str]
) -> None:
    def trial(hook: str, *options: str) -> Finished:
        return call(
            "pre-commit", "try-repo", hook_repository[0], hook, "--verbose", "--all-files", *options, cwd=scratch
        )

    done = trial("vbdguard-verify")
    assert done.returncode == 0, done.stdout + done.stderr
    duration = re.search(r"- duration: ([\d.]+)s", done.stdout)
    assert duration is not None
    assert float(duration[1]) < 2
    done = trial("vbdguard-scan", "--hook-stage", "manual")
    assert done.returncode == 0, done.stdout + done.stderr
    change(scratch)
    done = trial("vbdguard-verify")
    assert done.returncode == 1
    assert re.search(r"changed +train-000002\.tar\n", done.stdout)
