from __future__ import annotations

import sys

import pytest
import torch

from vbdguard.errors import ConfigError
from vbdguard.method.device import activation_dtype, large_buffers_reused, resolve_device


def test_the_processor_is_always_there() -> None:
    assert resolve_device("cpu") == torch.device("cpu")


def test_auto_takes_the_best_device_that_is_there() -> None:
    best = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    assert resolve_device("auto").type == best


@pytest.mark.parametrize("name", ["abacus", "", "cuda:x"])
def test_a_device_that_does_not_exist_is_named_with_what_was_expected(name: str) -> None:
    with pytest.raises(ConfigError, match=f"expected a device such as auto, cpu, cuda or mps, got '{name}'"):
        resolve_device(name)


@pytest.mark.parametrize("name", ["cuda", "mps", "meta"])
def test_a_device_that_is_not_here_is_refused_with_what_to_do(name: str) -> None:
    if {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}.get(name):
        pytest.skip(f"{name} is here")
    with pytest.raises(ConfigError, match=f"'{name}' is not available here; pass --device auto or cpu"):
        resolve_device(name)


def test_other_devices_than_cpu_and_cuda_compute_in_float32() -> None:
    assert activation_dtype(torch.device("mps")) == torch.float32
    assert activation_dtype(torch.device("cpu")) in (torch.float32, torch.bfloat16)


def test_buffers_are_right_and_an_error_passes_while_they_are_reused() -> None:
    with large_buffers_reused():
        assert float((torch.ones(2_000_000) * 2).sum()) == 4e6
    with pytest.raises(KeyError), large_buffers_reused():
        raise KeyError


def test_systems_without_the_gnu_c_library_just_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with large_buffers_reused():
        pass
