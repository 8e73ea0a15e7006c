"""The input gradient of a class's margin, which shows what the poisoned model looks at (Eq. 5 and 6)."""

from __future__ import annotations

import torch
from torch import Tensor

from vbdguard.method.simple_model import SimpleModel


def margin(logits: Tensor, label: int) -> Tensor:
    """Return logit of the class minus the largest other logit, (n,) (Eq. 6, on logits as the paper advises)."""
    others = logits.clone()
    others[:, label] = -torch.inf
    return logits[:, label] - others.amax(1)


def margin_gradients(model: SimpleModel, x: Tensor, label: int) -> Tensor:
    """Return each sample's gradient of the margin (Eq. 5 on one image).

    Args:
        model: in evaluation mode.
        x: centred pixels, float (n, C, H, W).
        label: the class whose margin is meant.

    Returns:
        float (n, C, H, W), per unit of normalised input, as the published experiments take it.
    """
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(margin(model(x), label).sum(), x)
    return gradient * model.pixel_std.view(1, -1, 1, 1)
