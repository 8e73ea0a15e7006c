"""The GitHub Action: its schema, and its scripts run as GitHub runs them, with what GitHub would put around them.

The actions of others that it uses (Python, cache, upload of SARIF) are not run here.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from vbdguard.receipt import Receipt
from vbdguard.report import ScanReport

ROOT = Path(__file__).resolve().parent.parent.parent
ACTION: dict[str, Any] = yaml.safe_load((ROOT / "action.yml").read_text())
STEPS: dict[str, dict[str, Any]] = {step["name"]: step for step in ACTION["runs"]["steps"]}
POISON = {"train-000000.tar/s01": 0, "train-000002.tar/s09": None}

MakeData = Callable[..., ScanReport]


@dataclass
class Runner:
    """As much of a GitHub runner as a script can see."""

    workspace: Path
    inputs: dict[str, str]
    outputs: dict[str, dict[str, str]] = field(default_factory=dict)
    log: str = ""

    @property
    def temp(self) -> Path:
        return self.workspace.parent / "runner-temp"

    @property
    def summary(self) -> str:
        path = self.temp / "summary.md"
        return path.read_text() if path.exists() else ""

    def run(self, name: str) -> int:
        """Run one step and return its exit code."""
        step = STEPS[name]
        self.temp.mkdir(exist_ok=True)
        output, script = self.temp / "output", self.temp / "script.sh"
        output.write_text("")
        script.write_text(step["run"])
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("GITHUB_")},
            **{name: self.evaluate(value) for name, value in step["env"].items()},
            "GITHUB_OUTPUT": str(output),
            "GITHUB_STEP_SUMMARY": str(self.temp / "summary.md"),
            "CI": "true",
        }
        done = subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", script],
            cwd=self.workspace,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
            check=False,
        )
        self.log += done.stdout
        pairs = (line.partition("=") for line in output.read_text().splitlines())
        self.outputs.setdefault(step.get("id", ""), {}).update({key: value for key, _, value in pairs})
        return done.returncode

    def evaluate(self, text: str) -> str:
        """Return a value with its `${{ }}` expressions replaced, the few kinds that the action uses."""

        def value(match: re.Match[str]) -> str:
            scope, _, rest = match[1].partition(".")
            if scope == "inputs":
                return self.inputs.get(rest, ACTION["inputs"][rest]["default"])
            if scope == "steps":
                step, _, name = rest.partition(".outputs.")
                return self.outputs.get(step, {}).get(name, "")
            return {"github.action_path": str(ROOT), "runner.temp": str(self.temp), "runner.os": "Linux"}[match[1]]

        return re.sub(r"\$\{\{ ([\w.-]+) \}\}", value, text)

    def installed(self) -> Runner:
        """Stand in for the installation: what is installed here."""
        self.outputs["install"] = {"bin": str(Path(sys.executable).parent)}
        return self


@pytest.fixture
def runner(tmp_path: Path, own_cache: Path) -> Runner:
    (tmp_path / "workspace").mkdir()
    runner = Runner(tmp_path / "workspace", {"source": "data"})
    runner.temp.mkdir()
    (runner.temp / "vbdguard-cache").symlink_to(own_cache)  # where the cached report lies
    return runner.installed()


def test_the_action_is_valid() -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-actions"]
    done = subprocess.run([*command, ROOT / "action.yml"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_no_script_has_an_expression_pasted_into_it() -> None:
    for step in STEPS.values():
        assert "${{" not in step.get("run", ""), f"{step['name']}: pass it through env, it may hold a command"


def test_every_input_is_used_and_every_output_has_its_source() -> None:
    text = (ROOT / "action.yml").read_text()
    for name in ACTION["inputs"]:
        assert f"inputs.{name}" in text.split("runs:")[1], name
    for name, output in ACTION["outputs"].items():
        assert f'echo "{name}=' in STEPS["Run vbdguard"]["run"], name
        assert f"steps.run.outputs.{name}" in output["value"]


@pytest.mark.parametrize("step", [name for name, step in STEPS.items() if "run" in step])
def test_the_scripts_are_sound_bash(step: str) -> None:
    done = subprocess.run(["bash", "-n"], input=STEPS[step]["run"], text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_scan_of_clean_data_passes_and_leaves_reports(runner: Runner, known_data: MakeData) -> None:
    known_data("workspace/data")
    assert runner.run("Name the cache") == 0
    assert re.fullmatch("[0-9a-f]{64}", runner.outputs["key"]["key"])
    assert runner.run("Run vbdguard") == 0
    assert runner.outputs["run"]["exit-code"] == "0"
    assert runner.run("Judge") == 0
    reports = {path.name for path in (runner.workspace / "vbdguard-report").iterdir()}
    assert reports == {f"vbdguard.{suffix}" for suffix in ("json", "sarif", "html", "md")}
    report = ScanReport.from_json((runner.workspace / runner.outputs["run"]["report"]).read_text())
    assert report.verdict == "clean"
    assert (runner.workspace / runner.outputs["run"]["sarif"]).is_file()
    assert runner.summary.strip()


def test_poison_fails_the_job_only_after_the_reports_are_there(runner: Runner, known_data: MakeData) -> None:
    known_data("workspace/data", POISON)
    assert runner.run("Run vbdguard") == 0
    assert runner.outputs["run"]["exit-code"] == "1"
    assert runner.outputs["run"]["sarif"]
    assert "train-000002.tar" in runner.summary
    assert runner.run("Judge") == 1


def test_options_and_several_sources_reach_the_scan(runner: Runner, known_data: MakeData) -> None:
    known_data("workspace/data", POISON)
    runner.inputs |= {
        "source": "data/train-000000.tar\ndata/train-{000001..000003}.tar\n",
        "args": "--fail-on never --seed 0",
        "receipt": "vbdguard.lock",
    }
    assert runner.run("Run vbdguard") == 0, runner.log
    assert runner.outputs["run"]["exit-code"] == "0", runner.log
    assert Receipt.read(runner.workspace / "vbdguard.lock").flagged == 2


def test_hostile_inputs_are_names_and_not_commands(runner: Runner, known_data: MakeData) -> None:
    known_data("workspace/data")
    runner.inputs |= {
        "source": "$(touch canary)\n`touch canary`; touch canary\n--exit-zero",
        "baseline": "; touch canary",
    }
    assert runner.run("Name the cache") == 0
    assert runner.run("Run vbdguard") == 0
    assert runner.outputs["run"]["exit-code"] == "2"
    assert not (runner.workspace / "canary").exists()
    assert runner.run("Judge") == 2


def test_a_scan_that_cannot_complete_fails_without_reports_of_an_earlier_one(
    runner: Runner, known_data: MakeData
) -> None:
    known_data("workspace/data")
    runner.run("Run vbdguard")
    shutil.rmtree(runner.workspace / "data")
    runner.outputs["run"] = {}
    runner.run("Run vbdguard")
    assert runner.outputs["run"] == {"exit-code": "2"}
    assert "ended with 2; the log of this step says why" in runner.summary
    assert runner.run("Judge") == 2


def test_verify_checks_the_receipt(runner: Runner, known_data: MakeData) -> None:
    report = known_data("workspace/data")
    lock = runner.workspace / "vbdguard.lock"
    Receipt.of(report, lock).write(lock)
    runner.inputs |= {"mode": "verify", "source": ""}
    runner.run("Run vbdguard")
    assert runner.outputs["run"]["exit-code"] == "0", runner.log
    shutil.copy(runner.workspace / "data/train-000000.tar", runner.workspace / "data/train-000001.tar")
    runner.run("Run vbdguard")
    assert runner.outputs["run"]["exit-code"] == "2"
    assert "changed     train-000001.tar" in runner.log


def test_the_verdict_of_a_step_that_never_ran_is_failure(runner: Runner) -> None:
    assert runner.run("Judge") == 2


def test_an_unknown_mode_is_refused_before_anything_is_installed(runner: Runner) -> None:
    runner.inputs["mode"] = "scna"
    assert runner.run("Install vbdguard") == 2
    assert "expected scan or verify, got scna" in runner.log


def test_the_light_installation_is_that_of_the_hook() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
    (packages,) = (hook["additional_dependencies"] for hook in hooks if hook["id"] == "vbdguard-verify")
    assert " ".join(packages) in STEPS["Install vbdguard"]["run"]
    assert " ".join(packages[1:]) in (ROOT / "docs" / "ci" / "gitlab.yml").read_text()


def test_the_light_installation_reads_parquet_where_the_extras_name_it(
    runner: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    binaries = tmp_path / "bin"
    binaries.mkdir()
    python = binaries / "python"
    # Makes "an environment" that holds itself, and says what it is to install.
    python.write_text(
        '#!/bin/bash\nif [ "$2" = venv ]; then mkdir -p "$3/bin"; cp "$0" "$3/bin/"; else echo "$@"; fi\n'
    )
    python.chmod(0o755)
    monkeypatch.setenv("PATH", f"{binaries}:{os.environ['PATH']}")
    for extras, last in (("", "numpy"), ("parquet", "pyarrow"), ("s3, parquet", "pyarrow")):
        runner.inputs |= {"mode": "verify", "extras": extras}
        assert runner.run("Install vbdguard") == 0
        assert runner.log.split()[-1] == last


@pytest.mark.skipif(os.environ.get("VBDGUARD_TEST_NETWORK", "") in ("", "0"), reason="set VBDGUARD_TEST_NETWORK=1")
def test_the_light_installation_verifies(runner: Runner, known_data: MakeData) -> None:
    report = known_data("workspace/data")
    lock = runner.workspace / "vbdguard.lock"
    Receipt.of(report, lock).write(lock)
    runner.inputs |= {"mode": "verify", "source": "data"}
    assert runner.run("Install vbdguard") == 0, runner.log
    assert not list(runner.temp.glob("vbdguard-venv/lib/*/site-packages/torch"))
    assert runner.run("Run vbdguard") == 0
    assert runner.outputs["run"]["exit-code"] == "0", runner.log
