"""Without its framework, a hook says which extra to install; without any, the plain hook works."""

from __future__ import annotations

import subprocess
import sys

import pytest

HOOKS = [("lightning_guard", "lightning", "lightning"), ("trainer_guard", "transformers", "transformers")]
HOOKS += [("timm_guard", "timm", "timm")]


def run_without(framework: str, code: str) -> subprocess.CompletedProcess[str]:
    """Run code in a Python in which a framework cannot be imported."""
    hide = f"import sys; sys.modules[{framework!r}] = None\n"
    return subprocess.run([sys.executable, "-c", hide + code], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("hook", "framework", "extra"), HOOKS)
def test_a_hook_names_the_extra_that_is_not_installed(hook: str, framework: str, extra: str) -> None:
    done = run_without(framework, f"import vbdguard.hooks.{hook}")
    assert done.returncode == 1
    assert "ImportError: the guard in" in done.stderr
    assert f'pip install "vbdguard[{extra}]"' in done.stderr.splitlines()[-1]


def test_the_plain_hook_imports_no_framework() -> None:
    check = "any(name in sys.modules for name in ('lightning', 'transformers', 'timm'))"
    code = f"import sys, vbdguard.hooks.pretrain; sys.exit({check})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
