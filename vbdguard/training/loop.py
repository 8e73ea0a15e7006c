"""The training loop: SGD with Nesterov momentum over lessons, an epoch at a time.

All chance of an epoch (order, crops, dropout) follows from the seed and the number of the epoch, so a training that
goes on from the end of an epoch ends with the weights of one that was never interrupted.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vbdguard.errors import ConfigError
from vbdguard.method.device import large_buffers_reused
from vbdguard.progress import Progress
from vbdguard.training.augment import crop_and_flip
from vbdguard.training.checkpoint import Checkpoints
from vbdguard.training.course import Course
from vbdguard.training.result import EpochResult

OnEpoch = Callable[[EpochResult], None]


def train_epochs(
    model: nn.Module,
    course: Course,
    *,
    checkpoints: Checkpoints | None,
    progress: Progress,
    title: str,
    on_epoch: OnEpoch | None = None,
) -> tuple[EpochResult, ...]:
    """Train a model in place, and return how each epoch went, those of an earlier run included.

    Args:
        model: on the course's device.
        course: what and how.
        checkpoints: where the state is kept after each epoch and taken from at the start; None keeps nothing.
        progress: hears of one stage, a step per batch.
        title: the name of that stage.
        on_epoch: called after each epoch, once its checkpoint is written.

    Raises:
        ConfigError: if the loss is no longer a number.
    """
    settings = course.settings
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=settings.lr,
        momentum=settings.momentum,
        nesterov=settings.momentum > 0,
        weight_decay=settings.weight_decay,
    )
    history = checkpoints.restore(model, optimizer) if checkpoints else ()
    progress.begin(title, settings.epochs * course.steps_per_epoch)
    progress.advance(len(history) * course.steps_per_epoch)
    try:
        with large_buffers_reused(), torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
            for epoch in range(len(history), settings.epochs):
                history = (*history, _train_epoch(model, optimizer, course, epoch, progress))
                if checkpoints:
                    checkpoints.save(model, optimizer, history, is_last=epoch == settings.epochs - 1)
                if on_epoch:
                    on_epoch(history[-1])
    finally:
        progress.end()
    return history


def signed_loss(losses: Tensor, is_unlearnt: Tensor, n_classes: int) -> Tensor:
    """Return the mean loss of a batch, to be descended; samples to unlearn count negatively.

    Their loss stops counting at ln K, where the label is as likely as any other: ascent without an end would
    spoil the weights for everything else.

    Args:
        losses: float (n,), cross-entropy of each sample.
        is_unlearnt: bool (n,).
        n_classes: K.
    """
    return torch.where(is_unlearnt, -losses.clamp(max=math.log(n_classes)), losses).mean()


def _train_epoch(
    model: nn.Module, optimizer: torch.optim.Optimizer, course: Course, epoch: int, progress: Progress
) -> EpochResult:
    start = time.perf_counter()
    # Loss, hits and samples are summed on the device and fetched once: a fetch per step would make it wait.
    sums = torch.zeros(3, device=course.device)
    model.train()
    with _own_chance(course, epoch) as generator:
        for number, (images, labels, is_unlearnt) in enumerate(_batches(course, epoch, generator)):
            _set_rate(optimizer, course, epoch * course.steps_per_epoch + number)
            with torch.autocast(course.device.type, course.dtype, enabled=course.dtype != torch.float32):
                logits = model(images)
            losses = F.cross_entropy(logits.float(), labels, reduction="none")
            optimizer.zero_grad(set_to_none=True)
            signed_loss(losses, is_unlearnt, course.n_classes).backward()
            optimizer.step()
            is_right = logits.detach().argmax(1) == labels
            sums += torch.stack([losses.detach(), is_right, torch.ones_like(losses)]).masked_fill(is_unlearnt, 0).sum(1)
            progress.advance()
    loss, right, count = sums.tolist()
    if not math.isfinite(loss):
        raise ConfigError(
            f"the loss is no longer a number in epoch {epoch + 1}; lr={course.settings.lr} is too high for this model"
        )
    return EpochResult(epoch + 1, loss / max(1, count), right / max(1, count), time.perf_counter() - start)


def _set_rate(optimizer: torch.optim.Optimizer, course: Course, step: int) -> None:
    for group in optimizer.param_groups:
        group["lr"] = course.settings.rate(step, course.settings.epochs * course.steps_per_epoch)


def _batches(course: Course, epoch: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield normalised images (n, C, H, W), labels (n,) and which to unlearn (n,), in random order."""
    lessons, settings, n = course.lessons, course.settings, course.batch_size
    order = torch.randperm(len(lessons), generator=generator).numpy()
    for number in range(course.steps_per_epoch):
        chosen = order[number * n : (number + 1) * n]
        images = course.feed.batch(lessons.indices[chosen])
        unlearnt = lessons.is_unlearnt[chosen] & (epoch >= settings.poisoned_epochs)
        is_unlearnt = torch.from_numpy(unlearnt).to(course.device)
        if settings.augment:
            # What is to be forgotten must be seen: a crop would often cut the trigger off.
            images = torch.where(is_unlearnt[:, None, None, None], images, crop_and_flip(images, generator))
        labels = torch.from_numpy(lessons.labels[chosen]).to(course.device)
        yield course.normalization.apply(images), labels, is_unlearnt


@contextmanager
def _own_chance(course: Course, epoch: int) -> Iterator[torch.Generator]:
    """Yield a generator for one epoch; dropout draws from torch's global ones, which are put back afterwards."""
    state = np.random.SeedSequence([course.settings.seed, epoch]).generate_state(1, np.uint64)
    seed = int(state[0] >> np.uint64(1))
    is_cuda = course.device.type == "cuda"
    with torch.random.fork_rng(devices=[course.device] if is_cuda else []):
        torch.random.manual_seed(seed)
        yield torch.Generator().manual_seed(seed)
