"""The networks that stage 7 trains: two of our own, any of torchvision's, or the user's."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vbdguard.errors import ConfigError

ModelChoice = str | nn.Module | Callable[[int], nn.Module]
"""A name, a module with K outputs, or a function from K to a module."""


class PreActBlock(nn.Module):
    """A residual block whose normalisation comes first (He et al. 2016, "Identity Mappings", Figure 1b).

    Args:
        inputs: channels in.
        outputs: channels out.
        stride: 1, or 2 to halve height and width.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        is_identity = inputs == outputs and stride == 1
        self.shortcut = None if is_identity else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, outputs, H / stride, W / stride) for (n, inputs, H, W)."""
        active = F.relu(self.norm1(x))
        # Where the shape changes, the shortcut starts behind the shared activation (the paper's section 4.1).
        kept = x if self.shortcut is None else self.shortcut(active)
        residual: Tensor = self.conv2(F.relu(self.norm2(self.conv1(active))))
        return residual + kept


WIDTH_STEP = 8
"""With 4 channels, the gradient of a strided shortcut's weights writes beyond its buffer on processors that have AVX2
and no AVX-512 (oneDNN in torch 2.15, channels last); full registers are safe."""


class PreActResNet18(nn.Module):
    """Eight pre-activation blocks behind a 3 x 3 stem, for images of 32 to 96 pixels.

    Args:
        n_classes: K, the number of logits.
        width: channels of the first blocks, a multiple of 8; the later ones have 2, 4 and 8 times as many.

    Raises:
        ConfigError: if the width is another one.
    """

    def __init__(self, n_classes: int, width: int = 64) -> None:
        super().__init__()
        if width < 1 or width % WIDTH_STEP:
            raise ConfigError(f"width must be a multiple of {WIDTH_STEP}, got {width}")
        self.stem = nn.Conv2d(3, width, 3, padding=1, bias=False)
        blocks, inputs = [], width
        for outputs, stride in ((width, 1), (2 * width, 2), (4 * width, 2), (8 * width, 2)):
            blocks += [PreActBlock(inputs, outputs, stride), PreActBlock(outputs, outputs, 1)]
            inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.BatchNorm2d(inputs)
        self.head = nn.Linear(inputs, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (n, K) for normalised images (n, 3, H, W)."""
        features = F.relu(self.norm(self.blocks(self.stem(x)))).mean((2, 3))
        logits: Tensor = self.head(features)
        return logits


class SmallNet(nn.Sequential):
    """Four convolutions for training on a processor: minutes for 50,000 images of 32 pixels.

    The first has stride 2, since full resolution would cost more than all the rest.

    Args:
        n_classes: K, the number of logits.
    """

    def __init__(self, n_classes: int) -> None:
        super().__init__(
            *_convolution(3, 32, size=4, stride=2),
            *_convolution(32, 64),
            nn.MaxPool2d(2),
            *_convolution(64, 128),
            nn.MaxPool2d(2, ceil_mode=True),
            *_convolution(128, 128),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(128, n_classes),
        )


def _convolution(inputs: int, outputs: int, *, size: int = 3, stride: int = 1) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(inputs, outputs, size, stride, padding=1, bias=False)
    return convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)


OWN_MODELS: dict[str, Callable[[int], nn.Module]] = {"preact_resnet18": PreActResNet18, "small": SmallNet}


def model_name(choice: ModelChoice) -> str:
    """Return what a choice of model is called in results and checkpoints."""
    if isinstance(choice, str):
        return choice
    return type(choice).__name__ if isinstance(choice, nn.Module) else getattr(choice, "__name__", "model")


def build_model(choice: ModelChoice, n_classes: int, image_shape: tuple[int, int, int], *, seed: int) -> nn.Module:
    """Return a new network with K logits, on the CPU, tried on two images.

    Args:
        choice: `preact_resnet18`, `small`, the name of a torchvision classifier, a module (a copy is returned, the
            module itself is not altered), or a function from K to a module.
        n_classes: K.
        image_shape: height, width and the 3 channels.
        seed: seed of the initial weights; a module of one's own brings its weights.

    Raises:
        ConfigError: if there is no such model, or it cannot turn these images into K logits.
    """
    # Initial weights are drawn from torch's global generator; the user's state of it is put back.
    with torch.random.fork_rng(devices=[]):
        torch.random.manual_seed(seed)
        model = _make(choice, n_classes, image_shape)
    _try_out(model, model_name(choice), n_classes, image_shape)
    return model


def _make(choice: ModelChoice, n_classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
    if isinstance(choice, nn.Module):
        return copy.deepcopy(choice).cpu()
    if isinstance(choice, str):
        own = OWN_MODELS.get(choice)
        return own(n_classes) if own else _from_torchvision(choice, n_classes, image_shape)
    made = choice(n_classes)
    if not isinstance(made, nn.Module):
        raise ConfigError(f"model {model_name(choice)}({n_classes}) must return a torch module, got {type(made)}")
    return made.cpu()


def check_name(choice: ModelChoice) -> None:
    """Refuse a name that no model has, before any work is done for it.

    Raises:
        ConfigError: if there is no such model.
    """
    if not isinstance(choice, str) or choice in OWN_MODELS:
        return
    models = _torchvision()
    names = models.list_models(module=models)
    if choice not in names:
        close = difflib.get_close_matches(choice, [*OWN_MODELS, *names], n=3)
        hint = f"did you mean {' or '.join(close)}" if close else f"use {', '.join(OWN_MODELS)} or one of torchvision's"
        raise ConfigError(f"no model {choice!r}; {hint}")


def _from_torchvision(name: str, n_classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
    check_name(name)
    models = _torchvision()
    try:
        model: nn.Module = models.get_model(name, weights=None, num_classes=n_classes, **_options(name, image_shape))
    except (ValueError, RuntimeError) as error:
        raise ConfigError(f"model {name!r} cannot be built for images of {_text(image_shape)}: {error}") from error
    if isinstance(model, models.ResNet) and max(image_shape[:2]) <= 64:
        # The stem of ImageNet (stride 2, then a pool) would leave an image of 32 pixels 1 x 1 at the end.
        model.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        model.maxpool = nn.Identity()
    return model


def _torchvision() -> Any:
    try:
        import torchvision.models as models
    except (ImportError, RuntimeError) as error:  # RuntimeError where its build does not match torch's
        raise ConfigError(f"torchvision cannot be loaded: {error}; install the one that belongs to torch") from error
    return models


def _options(name: str, image_shape: tuple[int, int, int]) -> dict[str, Any]:
    """Return what some families need beside the number of classes."""
    if name.startswith("vit_"):
        return {"image_size": image_shape[0]}
    # A second output in training, and slow initial weights with a warning about them.
    return {"aux_logits": False, "init_weights": True} if name in ("googlenet", "inception_v3") else {}


def _try_out(model: nn.Module, name: str, n_classes: int, image_shape: tuple[int, int, int]) -> None:
    height, width, channels = image_shape
    was_training = model.training
    try:
        with torch.no_grad():
            logits = model.eval()(torch.zeros(2, channels, height, width))
    except Exception as error:  # whatever a foreign network raises, it does not fit
        raise ConfigError(
            f"model {name!r} cannot take images of {_text(image_shape)}: {error}; choose another, or another image_size"
        ) from error
    finally:
        model.train(was_training)
    if not isinstance(logits, Tensor) or logits.shape != (2, n_classes):
        found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ConfigError(
            f"model {name!r} must return logits (n, {n_classes}), one per class of the data; "
            f"for 2 images it returned {found}"
        )


def _text(image_shape: tuple[int, int, int]) -> str:
    return f"{image_shape[0]} x {image_shape[1]} pixels"
