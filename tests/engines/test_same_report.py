"""One report, bit for bit apart from its times, wherever the shards were read and in however many parts."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from blake3 import blake3
from small_scans import SMALL_DEFAULT

from vbdguard.attacks.poison import poison_arrays
from vbdguard.cli.demo_data import DemoSet
from vbdguard.config import ScanConfig
from vbdguard.engines.ray_tasks import RayTasks
from vbdguard.ingest import shard_pass
from vbdguard.ingest.partial import read_partial, write_partial
from vbdguard.partial_scans import merge, scan_share
from vbdguard.progress import Silent
from vbdguard.report import ScanReport
from vbdguard.scanner import scan
from vbdguard.sealing import seal
from vbdguard.sources.base import RawSample, Shard
from vbdguard.sources.opening import open_source
from vbdguard.sources.shards import ShardSource
from vbdguard.sources.writing import write_shards

RAY = replace(SMALL_DEFAULT, engine="ray", jobs=2)


def timeless(report: ScanReport) -> str:
    body = json.loads(report.to_json())
    del body["timings"]
    return json.dumps(body)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four classes of 250 natural crops in ten shards, every tenth with a 3 x 3 grid and the label 0."""
    drawn = [sample for sample in DemoSet(250).samples() if sample.label in (1, 4, 5, 9)]
    crops = np.stack([np.asarray(sample.image) for sample in drawn])
    small = crops.reshape(-1, 16, 2, 16, 2, 3).mean((2, 4)).astype(np.uint8)
    attacked = poison_arrays(small, [(1, 4, 5, 9).index(int(s.label)) for s in drawn], "color_grid", target=0)
    order = np.random.default_rng(0).permutation(len(small)).tolist()
    samples = (RawSample(f"s{n:04d}", attacked.images[n], int(attacked.labels[n])) for n in order)
    folder = tmp_path_factory.mktemp("attacked") / "data"
    write_shards(samples, folder, per_shard=100)
    return folder


@pytest.fixture(scope="module")
def expected(data: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """What one process of this machine says."""
    report = scan(str(data), SMALL_DEFAULT, cache_dir=tmp_path_factory.mktemp("expected"))
    assert (report.verdict, report.status, len(report.dataset.shards)) == ("poisoned", "complete", 10)
    return timeless(report)


Share = Callable[..., list[Path]]


@pytest.fixture
def shares(data: Path, tmp_path: Path) -> Share:
    """Read shares, each as a job of its own would: with a cache of its own."""

    def read(*wanted: str, config: ScanConfig = SMALL_DEFAULT, source: object = None) -> list[Path]:
        files = []
        for share in wanted:
            file = tmp_path / f"part-{share.replace('/', '-of-')}"
            scan_share(source or str(data), share, file, config, cache_dir=tmp_path / f"cache-{file.name}")
            files.append(file)
        return files

    return read


def test_two_processes_say_what_one_says(data: Path, expected: str, tmp_path: Path) -> None:
    assert timeless(scan(str(data), replace(SMALL_DEFAULT, jobs=2), cache_dir=tmp_path)) == expected


def test_two_ray_workers_say_what_one_process_says(
    data: Path, expected: str, ray_cluster: ModuleType, tmp_path: Path
) -> None:
    assert timeless(scan(str(data), RAY, cache_dir=tmp_path)) == expected


def test_shares_merged_in_any_order_say_what_one_process_says(shares: Share, expected: str, tmp_path: Path) -> None:
    files = shares("1/3", "2/3", "3/3")
    random.Random(1).shuffle(files)
    assert timeless(merge(files, SMALL_DEFAULT, cache_dir=tmp_path / "merged")) == expected


def test_shares_of_different_numbers_of_jobs_merge_where_they_cover_the_data(
    shares: Share, expected: str, tmp_path: Path
) -> None:
    files = shares("4/4", "1/2", "2/4")
    assert timeless(merge(files, SMALL_DEFAULT, use_cache=False)) == expected


def test_shares_read_on_ray_say_what_one_process_says(
    shares: Share, expected: str, ray_cluster: ModuleType, tmp_path: Path
) -> None:
    assert timeless(merge(shares("2/2", "1/2", config=RAY), SMALL_DEFAULT, cache_dir=tmp_path / "merged")) == expected


def wrapped(data: Path, wrap: Callable[[int, Shard], Shard]) -> ShardSource:
    opened = open_source(str(data))
    return ShardSource(opened.names, [wrap(number, shard) for number, shard in enumerate(opened.shards)])


def test_a_ray_worker_that_is_killed_amid_a_shard_changes_nothing(
    data: Path, functions: ModuleType, ray_cluster: ModuleType, tmp_path: Path
) -> None:
    mark = tmp_path / "mark"
    losing = wrapped(data, lambda n, shard: functions.LosingShard(shard, str(mark) if n == 4 else "", 2))
    calm = wrapped(data, lambda _, shard: functions.LosingShard(shard))
    undisturbed = scan(calm, replace(SMALL_DEFAULT, image_size=16), cache_dir=tmp_path / "local")
    report = scan(losing, replace(RAY, image_size=16), cache_dir=tmp_path / "ray")
    assert mark.stat().st_size == 3  # two were killed there, one came through
    assert report.status == "complete"
    assert timeless(report) == timeless(undisturbed)


def test_ray_workers_that_are_killed_while_the_scan_judges_change_nothing(
    data: Path, expected: str, functions: ModuleType, ray_cluster: ModuleType, tmp_path: Path
) -> None:
    """Stages 1 to 6, the scores among them, are this process's work."""
    killed: list[int] = []

    class Killing(Silent):
        def begin(self, stage: str, total: int | None) -> None:
            if stage in ("suspects", "flagging"):
                with RayTasks(2) as ray:
                    found = [process for _, process in ray.map(functions.process, [1, 2])]
                processes = {process for process in found if isinstance(process, int)}
                for process in processes:
                    os.kill(process, signal.SIGKILL)
                killed.extend(processes)

    assert timeless(scan(str(data), RAY, cache_dir=tmp_path, progress=Killing())) == expected
    assert len(killed) >= 2


def test_a_shard_that_fails_everywhere_is_named_and_the_same_for_all(
    data: Path, functions: ModuleType, ray_cluster: ModuleType, shares: Share, tmp_path: Path
) -> None:
    bad = wrapped(data, lambda n, shard: functions.DyingShard(shard) if n == 4 else shard)
    local = scan(bad, replace(SMALL_DEFAULT, image_size=16), cache_dir=tmp_path / "local")
    assert local.status == "incomplete"
    assert [(entry.key, entry.reason) for entry in local.skipped] == [("train-000004.tar", "worker-died")]
    on_ray = scan(bad, replace(RAY, image_size=16), cache_dir=tmp_path / "ray")
    assert timeless(on_ray) == timeless(local)
    config = replace(SMALL_DEFAULT, image_size=16)
    merged = merge(shares("1/3", "2/3", "3/3", config=config, source=bad), config, cache_dir=tmp_path / "merged")
    assert timeless(merged) == timeless(local)


@pytest.fixture
def unseen_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers find no mark of the scan, as on nodes that do not share its disk."""
    monkeypatch.setattr(shard_pass, "leave_mark", lambda staging: "a mark that nobody has left")


def segments(cache: Path) -> dict[str, int]:
    return {path.parent.name: path.stat().st_mtime_ns for path in (cache / "segments").glob("[!.]*/samples.json")}


def test_nodes_that_do_not_see_the_store_hand_over_what_they_read(
    data: Path, expected: str, ray_cluster: ModuleType, unseen_store: None, tmp_path: Path
) -> None:
    assert timeless(scan(str(data), RAY, cache_dir=tmp_path)) == expected
    before = segments(tmp_path)
    assert len(before) == 10
    damaged = next((tmp_path / "segments").glob("*/pixels.npy"))
    damaged.write_bytes(damaged.read_bytes()[:-1])
    assert timeless(scan(str(data), RAY, cache_dir=tmp_path)) == expected
    after = segments(tmp_path)
    assert {name for name in after if after[name] != before[name]} == {damaged.parent.name}


def forged(file: Path, honest_cache: Path, target: Path) -> Path:
    """Write a partial scan of the same data whose pixels show no trigger, with every digest and checksum in order."""
    store = target.with_name("forger")
    shutil.copytree(honest_cache / "segments", store / "segments")
    for segment in (store / "segments").iterdir():
        pixels = np.load(segment / "pixels.npy")
        pixels[:, -3:, -3:] = pixels[:, 4:7, 4:7]
        np.save(segment / "pixels.npy", pixels)
        body = json.loads((segment / "samples.json").read_bytes())["body"]
        body["checksums"]["pixels.npy"] = blake3((segment / "pixels.npy").read_bytes()).hexdigest()
        (segment / "samples.json").write_text(seal(segment.name, json.dumps(body)))
    write_partial(target, read_partial(file), store)
    return target


def test_a_forged_partial_scan_fools_its_own_merge_and_nobody_else(
    data: Path, shares: Share, expected: str, tmp_path: Path
) -> None:
    cache = tmp_path / "shared"
    (honest,) = shares("1/1")
    scan(str(data), SMALL_DEFAULT, cache_dir=tmp_path / "honest")
    bad = forged(honest, tmp_path / "honest", tmp_path / "forged")
    assert merge([bad], SMALL_DEFAULT, cache_dir=cache).verdict == "clean"
    assert timeless(merge([honest], SMALL_DEFAULT, cache_dir=cache)) == expected
    assert timeless(scan(str(data), SMALL_DEFAULT, cache_dir=cache)) == expected
    # What this machine has read itself counts for more than any file.
    assert timeless(merge([bad], SMALL_DEFAULT, cache_dir=cache)) == expected


def test_a_second_merge_answers_from_the_cache(shares: Share, expected: str, tmp_path: Path) -> None:
    files = shares("1/2", "2/2")
    assert not merge(files, SMALL_DEFAULT, cache_dir=tmp_path / "c").from_cache
    again = merge(files, SMALL_DEFAULT, cache_dir=tmp_path / "c")
    assert again.from_cache
    assert timeless(again) == expected
