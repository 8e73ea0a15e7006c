from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from dataclasses import replace

import pytest

from vbdguard.cli.main import COMMANDS
from vbdguard.config import MethodConfig, ScanConfig
from vbdguard.next_steps import has_own_settings, next_steps, scan_command
from vbdguard.report import ScanReport, SkippedSample

MakeData = Callable[..., ScanReport]


@pytest.fixture
def report(known_data: MakeData) -> ScanReport:
    found = known_data(flagged={"train-000000.tar/s01": None})
    return replace(found, dataset=replace(found.dataset, sources=("shards/",)))


def commands(report: ScanReport) -> list[str]:
    return [step.command for step in next_steps(report)]


def test_poison_is_looked_at_and_cleaned_out(report: ScanReport) -> None:
    assert commands(report) == [
        "vbdguard scan shards/ -o report.html",
        "vbdguard clean shards/ clean/",
        "vbdguard.guard(loader)",
    ]


def test_clean_data_get_a_receipt(known_data: MakeData) -> None:
    assert commands(known_data("clean", seed=1))[0].endswith(" --receipt vbdguard.lock")


def test_unreadable_data_are_scanned_again_first(report: ScanReport) -> None:
    skipped = (SkippedSample("train-000000.tar/s00", "truncated", "expected more"),)
    assert commands(replace(report, status="incomplete", skipped=skipped))[0] == "vbdguard scan shards/"


def test_steps_keep_the_options_of_the_scan_so_that_the_cache_answers(report: ScanReport) -> None:
    config = {**report.config, "preset": "paper", "image_size": [48, 64], "label_key": "my label"}
    again = replace(report, config={**config, "folder_rule": "huggingface"}, seed=7)
    options = "--preset paper --seed 7 --image-size 48x64 --label-key 'my label' --folder-rule huggingface"
    assert commands(again)[0] == f"vbdguard scan shards/ {options} -o report.html"
    assert scan_command(again) == f"vbdguard scan shards/ {options} --device cpu"


@pytest.mark.parametrize("source", ["a b", "$(rm x)", "`x`", "a;b", "-o", "x'y", "{0..9}.tar", "\x1b[31m"])
def test_no_source_can_smuggle_in_a_command(source: str, report: ScanReport) -> None:
    words = shlex.split(scan_command(replace(report, dataset=replace(report.dataset, sources=(source,)))))
    assert words[:2] == ["vbdguard", "scan"]
    assert words[-3] == (r"\x1b[31m" if source == "\x1b[31m" else source)


def test_a_long_list_of_sources_is_left_to_the_reader(report: ScanReport) -> None:
    sources = tuple(f"shards/train-{n:06d}.tar" for n in range(100))
    steps = commands(replace(report, dataset=replace(report.dataset, sources=sources)))
    assert steps == ["vbdguard scan SOURCE -o report.html", "vbdguard.guard(loader)"]


def test_only_settings_that_no_option_can_name_are_called_own(report: ScanReport) -> None:
    def with_method(config: ScanConfig) -> ScanReport:
        return ScanReport.from_json(json.dumps({**report.to_dict(), "config": config.result_settings()}))

    assert not has_own_settings(with_method(ScanConfig()))
    assert not has_own_settings(with_method(ScanConfig(preset="paper", image_size=64, label_key="x")))
    own = MethodConfig(detector=replace(MethodConfig().detector, min_accuracy=0.5))
    assert has_own_settings(with_method(ScanConfig(preset="paper", method=own)))


def test_every_command_that_is_suggested_exists(report: ScanReport, known_data: MakeData) -> None:
    for step in (*next_steps(report), *next_steps(known_data("clean", seed=1))):
        name, *rest = step.command.split()
        assert name == "vbdguard.guard(loader)" or rest[0] in COMMANDS
