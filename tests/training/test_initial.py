from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from vbdguard.errors import ConfigError
from vbdguard.training.initial import load_initial
from vbdguard.training.pixels import Normalization


def linear() -> nn.Module:
    return nn.Linear(3, 2)


@pytest.mark.parametrize("wrap", [dict, lambda w: {"state_dict": w, "epoch": 3}, lambda w: {"model": w}])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_weights_come_out_of_files_as_people_write_them(wrap: Any, prefix: str, tmp_path: Path) -> None:
    trained, fresh = linear(), linear()
    torch.save(wrap({prefix + name: w for name, w in trained.state_dict().items()}), tmp_path / "w.pt")
    load_initial(tmp_path / "w.pt").put_into(fresh)
    assert all(map(torch.equal, fresh.parameters(), trained.parameters()))


def test_a_folder_of_a_training_brings_weights_and_how_its_images_were_normalised(tmp_path: Path) -> None:
    metadata = {"mean": "[0.1, 0.2, 0.3]", "std": "[0.4, 0.5, 0.6]"}
    save_file(linear().state_dict(), tmp_path / "model.safetensors", metadata)
    found = load_initial(tmp_path)
    assert found.normalization == Normalization((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert load_initial(linear().state_dict()).normalization is None


def test_the_digest_tells_weights_apart() -> None:
    model = linear()
    first = load_initial(model.state_dict()).digest()
    assert first == load_initial({name: w.clone() for name, w in model.state_dict().items()}).digest()
    with torch.no_grad():
        model.bias[0] += 1  # type: ignore[operator,index]
    assert first != load_initial(model.state_dict()).digest()


class Evil:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return eval, ("1/0",)


def test_a_file_with_code_in_it_is_refused_and_the_code_not_run(tmp_path: Path) -> None:
    torch.save({"weight": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(ConfigError, match="evil.pt: expected weights"):
        load_initial(tmp_path / "evil.pt")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("w.pt", b"no weights", "expected weights as .safetensors or of torch.save"),
        ("w.safetensors", b"no weights", "expected weights as .safetensors or of torch.save"),
        ("missing.pt", None, "no such file"),
    ],
)
def test_what_holds_no_weights_is_refused(name: str, content: bytes | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        load_initial(tmp_path / name)


@pytest.mark.parametrize("loaded", [{}, {"epoch": 3}, [1]], ids=["empty", "no tensors", "a list"])
def test_a_file_of_something_else_is_refused(loaded: object, tmp_path: Path) -> None:
    torch.save(loaded, tmp_path / "w.pt")
    with pytest.raises(ConfigError, match="expected a state dict of names and tensors"):
        load_initial(tmp_path / "w.pt")


def test_weights_of_another_architecture_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"the state dict: not the weights of this model.*size mismatch"):
        load_initial(nn.Linear(4, 2).state_dict()).put_into(linear())
