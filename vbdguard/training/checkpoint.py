"""The state of a training on disk, whole after every epoch.

    <folder>/
    ├── training.json               what trains, how each epoch went, and which files hold the state
    ├── weights-0007.safetensors    the model after that epoch
    ├── momentum-0007.safetensors   the optimiser's memory
    └── model.safetensors           the trained model, in place of those two when the last epoch is done

training.json is replaced after the files that it names are on the disk and before the older ones go: whenever the
process dies, it names a state that is there in full. Nothing is pickled.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from blake3 import blake3
from torch import Tensor, nn

from vbdguard.atomic import write_atomically
from vbdguard.errors import ConfigError
from vbdguard.training.result import EpochResult
from vbdguard.typed_json import MismatchError, rebuild

STATE_FILE = "training.json"
MODEL_FILE = "model.safetensors"
_VERSION = 1
_START_OVER = "pass resume=False (--no-resume) to start over, or name another folder"


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file of a checkpoint."""

    name: str
    blake3: str
    """Hex digest of its bytes."""


@dataclass(frozen=True, slots=True)
class TrainingState:
    """What training.json holds."""

    version: int
    identity: Mapping[str, Any]
    """What trains on what, and how: two trainings of the same identity end with the same weights."""
    epochs: tuple[EpochResult, ...]
    weights: StoredFile
    momentum: StoredFile | None
    """None once the last epoch is done."""


class Checkpoints:
    """The checkpoints of one training.

    Args:
        folder: where they lie; made if need be.
        identity: JSON-ready; what must not differ between the run that wrote a checkpoint and one that goes on.
        metadata: short texts that model.safetensors carries in its header.
        resume: whether to go on from what lies there; otherwise it is written over.
    """

    def __init__(
        self, folder: Path, identity: Mapping[str, Any], *, metadata: Mapping[str, str], resume: bool = True
    ) -> None:
        self.folder = folder
        self._identity: dict[str, Any] = json.loads(json.dumps(dict(identity)))
        self._metadata = {"format": "pt", **metadata}
        self._resume = resume
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"{folder}: expected a folder for checkpoints: {error}") from error

    def restore(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[EpochResult, ...]:
        """Put model and optimiser into the state that lies there, and return the epochs behind it; () if none does.

        Raises:
            ConfigError: if it belongs to another training, or is damaged.
        """
        state = self._read() if self._resume else None
        if state is None:
            return ()
        self._require_same(state.identity)
        try:
            model.load_state_dict(self._load(state.weights))
            if state.momentum is not None:
                _set_momentum(model, optimizer, self._load(state.momentum))
        except (OSError, RuntimeError, KeyError, ValueError) as error:
            raise self._damaged(error) from error
        return state.epochs

    def save(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, epochs: tuple[EpochResult, ...], *, is_last: bool
    ) -> None:
        """Keep the state after an epoch, and let go of the one before.

        Raises:
            OSError: if the folder cannot be written to; the state before stays.
        """
        weights = {name: _plain(tensor) for name, tensor in model.state_dict().items()}
        number = f"{len(epochs):04d}.safetensors"
        stored = self._store(MODEL_FILE if is_last else f"weights-{number}", weights)
        momentum = None if is_last else self._store(f"momentum-{number}", _momentum(model, optimizer))
        state = TrainingState(_VERSION, self._identity, epochs, stored, momentum)
        write_atomically(self.folder / STATE_FILE, json.dumps(asdict(state), indent=2, allow_nan=False) + "\n")
        named = {stored.name, momentum.name if momentum else ""}
        for path in (*self.folder.glob("weights-*.safetensors"), *self.folder.glob("momentum-*.safetensors")):
            if path.name not in named:
                path.unlink(missing_ok=True)

    def _read(self) -> TrainingState | None:
        path = self.folder / STATE_FILE
        try:
            body = json.loads(path.read_bytes())
            state = rebuild(TrainingState, body)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError, MismatchError) as error:
            raise self._damaged(error) from error
        if state.version != _VERSION:
            raise ConfigError(f"{path}: expected version {_VERSION}, got {state.version}; {_START_OVER}")
        return state

    def _require_same(self, found: Mapping[str, Any]) -> None:
        names = sorted({*found, *self._identity})
        different = [name for name in names if found.get(name) != self._identity.get(name)]
        if different:
            changes = ", ".join(f"{name} {found.get(name)} instead of {self._identity.get(name)}" for name in different)
            raise ConfigError(f"{self.folder}: the checkpoint there is of another training ({changes}); {_START_OVER}")

    def _store(self, name: str, tensors: dict[str, Tensor]) -> StoredFile:
        from safetensors.torch import save

        content = save(tensors, self._metadata)
        aside = self.folder / f".{name}.tmp"
        with aside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(self.folder / name)
        return StoredFile(name, blake3(content).hexdigest())

    def _load(self, stored: StoredFile) -> dict[str, Tensor]:
        from safetensors.torch import load

        if Path(stored.name).name != stored.name:
            raise ValueError(f"{stored.name!r} is no file name")
        content = (self.folder / stored.name).read_bytes()
        if blake3(content).hexdigest() != stored.blake3:
            raise ValueError(f"{stored.name} has other bytes than were written")
        return load(content)

    def _damaged(self, error: Exception) -> ConfigError:
        return ConfigError(f"{self.folder}: the checkpoint there is damaged ({error}); {_START_OVER}")


def _plain(tensor: Tensor) -> Tensor:
    """Return a copy that shares memory with no other and lies in the usual order, as safetensors wants it."""
    return tensor.detach().to("cpu", copy=True).contiguous()


def _momentum(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the momentum of each parameter that has any, by the parameter's name."""
    buffers = {name: optimizer.state[weight].get("momentum_buffer") for name, weight in model.named_parameters()}
    return {name: _plain(buffer) for name, buffer in buffers.items() if buffer is not None}


def _set_momentum(model: nn.Module, optimizer: torch.optim.Optimizer, buffers: Mapping[str, Tensor]) -> None:
    weights = dict(model.named_parameters())
    for name, buffer in buffers.items():
        # Laid out like the weight: sums in another order would end in other last digits.
        optimizer.state[weights[name]]["momentum_buffer"] = torch.empty_like(weights[name]).copy_(buffer).detach()
