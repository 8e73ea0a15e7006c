from __future__ import annotations

import pytest

from vbdguard.hooks.processes import can_talk, job_rank

VARIABLES = ("RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "LOCAL_RANK")


@pytest.fixture(autouse=True)
def no_job(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def test_a_single_process_is_rank_0_and_has_nobody_to_talk_to() -> None:
    assert job_rank() == 0
    assert not can_talk()


@pytest.mark.parametrize("name", VARIABLES)
def test_launchers_say_the_rank_by_their_variables(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "3")
    assert job_rank() == 3


def test_torchrun_outranks_slurm_which_started_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_PROCID", "0")
    monkeypatch.setenv("RANK", "5")
    assert job_rank() == 5


def test_a_variable_that_is_no_number_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "")
    monkeypatch.setenv("LOCAL_RANK", "2")
    assert job_rank() == 2
