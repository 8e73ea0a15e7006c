from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from vbdguard.build import code_digest
from vbdguard.config import ScanConfig
from vbdguard.errors import ReceiptError, SourceError
from vbdguard.receipt import Receipt
from vbdguard.report import ScanReport
from vbdguard.verification import Differences, check_terms, compare, shards_digest

SAME = Differences((), (), (), ())
LOCK = Path("vbdguard.lock")


@pytest.fixture
def data(known_data: Callable[..., ScanReport], tmp_path: Path) -> Path:
    known_data()
    return tmp_path / "data"


@pytest.fixture
def receipt(data: Path, report_flagging: Callable[..., ScanReport]) -> Receipt:
    return Receipt.of(report_flagging(str(data), {}), LOCK)


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place % len(content)] ^= 1
    path.write_bytes(content)


def test_unchanged_data_have_no_differences(receipt: Receipt, data: Path) -> None:
    assert compare(receipt, [str(data)]) == SAME
    assert not compare(receipt, [str(data)])


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(shard=st.integers(0, 3), place=st.integers(0, 10**6))
def test_any_changed_bit_of_any_shard_names_that_shard(receipt: Receipt, data: Path, shard: int, place: int) -> None:
    path = data / f"train-{shard:06d}.tar"
    flip(path, place)
    try:
        assert compare(receipt, [str(data)]) == replace(SAME, changed=(path.name,))
    finally:
        flip(path, place)


def test_a_change_that_keeps_size_and_time_is_seen(receipt: Receipt, data: Path) -> None:
    path = data / "train-000001.tar"
    before = path.stat()
    flip(path, 700)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    assert compare(receipt, [str(data)]).changed == ("train-000001.tar",)


def test_missing_and_added_shards_are_named(receipt: Receipt, data: Path) -> None:
    (data / "train-000003.tar").rename(data.parent / "aside.tar")
    shutil.copy(data / "train-000000.tar", data / "train-000009.tar")
    flip(data / "train-000009.tar", 600)
    assert compare(receipt, [str(data)]) == replace(SAME, missing=("train-000003.tar",), added=("train-000009.tar",))


def test_a_second_copy_of_a_shard_is_more_data(receipt: Receipt, data: Path) -> None:
    shutil.copy(data / "train-000000.tar", data / "train-000009.tar")
    assert compare(receipt, [str(data)]) == replace(SAME, added=("train-000009.tar",))


def test_renamed_shards_are_the_same_data(receipt: Receipt, data: Path) -> None:
    (data / "train-000003.tar").rename(data / "train-000007.tar")
    for old, new in (("000000", "x"), ("000001", "000000"), ("x", "000001")):
        (data / f"train-{old}.tar").rename(data / f"train-{new}.tar")
    assert compare(receipt, [str(data)]) == SAME


def test_a_shard_that_took_anothers_name_is_named_as_changed(receipt: Receipt, data: Path) -> None:
    shutil.copy(data / "train-000001.tar", data / "train-000000.tar")
    assert compare(receipt, [str(data)]).changed == ("train-000000.tar",)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_shard_that_may_not_be_read_is_named(receipt: Receipt, data: Path) -> None:
    (data / "train-000002.tar").chmod(0)
    assert compare(receipt, [str(data)]).unreadable[0].startswith("train-000002.tar (io-error")


def test_a_shard_whose_target_is_gone_is_named(receipt: Receipt, data: Path) -> None:
    (data / "train-000002.tar").unlink()
    (data / "train-000002.tar").symlink_to(data / "nowhere")
    found = compare(receipt, [str(data)])
    assert found.unreadable[0].startswith("train-000002.tar (io-error")
    assert found.missing == ()


def test_a_pointer_to_data_that_were_not_fetched_says_how_to_fetch_them(receipt: Receipt, data: Path) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 3\n"
    (data / "train-000002.tar").write_text(pointer)
    found = compare(receipt, [str(data)])
    assert found.changed == found.missing == ()
    assert "train-000002.tar (git-lfs-pointer: " in found.unreadable[0]
    assert "git lfs pull" in found.unreadable[0]


def test_data_that_are_not_there_are_an_error(receipt: Receipt, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="does not exist"):
        compare(receipt, [str(tmp_path / "nowhere")])


@pytest.fixture
def images(tmp_path: Path) -> Iterator[Path]:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), np.uint8)
    for number, image in enumerate(pixels):
        folder = tmp_path / "images" / f"class{number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{number}.png")
    return tmp_path / "images"


def test_folders_of_images_are_verified_by_content_and_class(
    images: Path, report_flagging: Callable[..., ScanReport]
) -> None:
    receipt = Receipt.of(report_flagging(str(images), {}), LOCK)
    assert not compare(receipt, [str(images)])
    (images / "class0" / "0.png").rename(images / "class1" / "0.png")
    assert compare(receipt, [str(images)])


def test_another_version_is_refused(receipt: Receipt) -> None:
    older = json.loads(receipt.to_json())
    assert older["tool"]["version"] == "0.1.0"
    other = _with_tool(receipt, "0.0.9")
    with pytest.raises(ReceiptError, match=r"vbdguard 0\.0\.9 made it and this is 0\.1\.0; scan again"):
        check_terms(other, ScanConfig(), LOCK)


def test_other_code_of_the_same_version_is_refused(receipt: Receipt) -> None:
    other = _with_tool(receipt, "0.1.0", "0" * 16)
    with pytest.raises(ReceiptError, match=r"another build of vbdguard 0\.1\.0 made it; scan again"):
        check_terms(other, ScanConfig(), LOCK)
    check_terms(_with_tool(receipt, "0.1.0"), ScanConfig(), LOCK)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (ScanConfig(seed=3), r"seed 0 \(now 3\); pass the same --seed here, or scan again"),
        (ScanConfig(preset="paper"), r'preset "default" \(now "paper"\)'),
        (ScanConfig(image_size=32), r"image_size null \(now \[32, 32\]\)"),
        (ScanConfig(label_key="id"), r'label_key null \(now "id"\)'),
        (ScanConfig(method=ScanConfig(preset="paper").method), "method"),
    ],
)
def test_other_settings_are_refused_and_named(receipt: Receipt, config: ScanConfig, words: str) -> None:
    with pytest.raises(ReceiptError, match=words):
        check_terms(receipt, config, LOCK)


def test_the_same_settings_pass_whatever_the_number_of_jobs_and_the_device(receipt: Receipt) -> None:
    check_terms(receipt, ScanConfig(jobs=7, device="cuda"), LOCK)


def test_the_name_of_a_cache_ignores_names_and_order_and_follows_content(data: Path) -> None:
    before = shards_digest([str(data)])
    (data / "train-000000.tar").rename(data / "train-000008.tar")
    assert shards_digest([str(data)]) == before
    flip(data / "train-000008.tar", 600)
    assert shards_digest([str(data)]) != before


def test_verifying_loads_neither_torch_nor_pillow_nor_rich(receipt: Receipt, data: Path) -> None:
    receipt.write(data.parent / "vbdguard.lock")
    code = (
        "import sys; from vbdguard.cli.main import main\n"
        "try: main(['verify', '--receipt', sys.argv[1], sys.argv[2]])\n"
        "except SystemExit as end: assert end.code == 0, end.code\n"
        "print([m for m in ('torch', 'PIL', 'rich', 'scipy', 'pyarrow', 'fsspec', 'webdataset') if m in sys.modules])"
    )
    command = [sys.executable, "-c", code, str(data.parent / "vbdguard.lock"), str(data)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


def _with_tool(receipt: Receipt, version: str, code: str = "") -> Receipt:
    """The receipt as that version would have written it."""
    from dataclasses import asdict

    from vbdguard.receipt import _checksum

    tool = {"code": code or code_digest(), "name": "vbdguard", "version": version}
    return replace(receipt, tool=tool, checksum=_checksum({**asdict(receipt), "tool": tool}))
