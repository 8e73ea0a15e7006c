"""Weights to start from: of a poisoned model that is to be mended, or of any other."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from blake3 import blake3
from torch import Tensor, nn

from vbdguard.errors import ConfigError
from vbdguard.training.checkpoint import MODEL_FILE
from vbdguard.training.pixels import Normalization

Init = str | Path | Mapping[str, Tensor]
"""A file of weights, the output folder of an earlier training, or a state dict."""

_WRAPPER = "module."
"""What DistributedDataParallel puts before each name."""
_SHOWN = 300


@dataclass(frozen=True, slots=True, eq=False)
class InitialWeights:
    """Weights with what their file says about the images that they want."""

    tensors: Mapping[str, Tensor]
    source: str
    """What they are called in messages."""
    normalization: Normalization | None
    """How their training normalised, where they were trained here."""

    def digest(self) -> str:
        """Return a hex digest of names, shapes and values."""
        hasher = blake3()
        for name in sorted(self.tensors):
            tensor = self.tensors[name].detach().cpu().contiguous()
            hasher.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
            hasher.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
        return hasher.hexdigest()

    def put_into(self, model: nn.Module) -> None:
        """Set the weights of a model.

        Raises:
            ConfigError: if they are those of another architecture.
        """
        try:
            model.load_state_dict(dict(self.tensors))
        except RuntimeError as error:
            problem = " ".join(str(error).split())[:_SHOWN]
            raise ConfigError(f"{self.source}: not the weights of this model, name theirs: {problem}") from error


def load_initial(init: Init) -> InitialWeights:
    """Return weights from a .safetensors file, a file of `torch.save`, an output folder or a state dict.

    Files of `torch.save` are read without running code from them (`weights_only`).

    Raises:
        ConfigError: if there is no such file, or it holds no weights.
    """
    if isinstance(init, Mapping):
        return InitialWeights(_checked(init, "the state dict"), "the state dict", None)
    path = Path(init)
    path = path / MODEL_FILE if path.is_dir() else path
    if not path.is_file():
        raise ConfigError(f"{path}: no such file; give weights as .safetensors or .pt, or the folder of a training")
    try:
        if path.suffix == ".safetensors":
            return _from_safetensors(path)
        loaded: Any = torch.load(path, map_location="cpu", weights_only=True)
    except ConfigError:
        raise
    except Exception as error:  # unpickling and safetensors each have errors of their own
        raise ConfigError(f"{path}: expected weights as .safetensors or of torch.save(state_dict): {error}") from error
    for name in ("state_dict", "model_state_dict", "model"):
        if isinstance(loaded, Mapping) and isinstance(loaded.get(name), Mapping):
            loaded = loaded[name]
    return InitialWeights(_checked(loaded, str(path)), str(path), None)


def _from_safetensors(path: Path) -> InitialWeights:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict, not iterable
    normalization = None
    if "mean" in metadata and "std" in metadata:
        normalization = Normalization(*(tuple(json.loads(metadata[name])) for name in ("mean", "std")))
    return InitialWeights(_checked(tensors, str(path)), str(path), normalization)


def _checked(loaded: Any, source: str) -> dict[str, Tensor]:
    if not isinstance(loaded, Mapping) or not loaded or not all(isinstance(v, Tensor) for v in loaded.values()):
        raise ConfigError(f"{source}: expected a state dict of names and tensors, got {type(loaded).__name__}")
    is_wrapped = all(name.startswith(_WRAPPER) for name in loaded)
    return {name.removeprefix(_WRAPPER) if is_wrapped else name: tensor for name, tensor in loaded.items()}
