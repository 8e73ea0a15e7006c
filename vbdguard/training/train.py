"""train_clean(): scan, then train on what is kept (paper, section 3.3.7).

scan        who is poisoned, by what, in which samples; the cached report where there is one
lessons     the policy decides what each sample teaches
training    the model, from scratch or from given weights; a checkpoint after each epoch
exam        clean accuracy and attack success rate on test samples, before and after
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from vbdguard.attacks.copying import PoisonSettings
from vbdguard.config import ScanConfig
from vbdguard.errors import ConfigError
from vbdguard.ingest.store import PixelStore
from vbdguard.method.device import resolve_device
from vbdguard.progress import Progress, current_listener
from vbdguard.report import ScanReport
from vbdguard.scanner import scan
from vbdguard.training.attack import extracted_attacks, known_attacks
from vbdguard.training.course import Course, resolve_dtype
from vbdguard.training.exam import Exam, Grades, prepare_exam
from vbdguard.training.initial import Init, load_initial
from vbdguard.training.lessons import Lessons, everything, plan_lessons
from vbdguard.training.loop import OnEpoch
from vbdguard.training.models import ModelChoice, check_name, model_name
from vbdguard.training.pixels import Normalization, PixelFeed
from vbdguard.training.reading import cache_folder, read_scanned, read_test_set
from vbdguard.training.result import TrainingResult
from vbdguard.training.settings import Amp, Policy, TrainingSettings, resolve_settings
from vbdguard.training.workshop import Workshop

log = logging.getLogger(__name__)

TITLE = "Training a clean model"
COMPARISON_TITLE = "Training on everything, to compare"
COMPARISON_FOLDER = "unguarded"


def train_clean(
    source: Any,
    *,
    model: ModelChoice = "preact_resnet18",
    epochs: int | None = None,
    policy: Policy = "suppress",
    init: Init | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    weight_decay: float | None = None,
    augment: bool = True,
    normalization: Normalization | None = None,
    amp: Amp = "auto",
    device: str = "auto",
    seed: int = 0,
    checkpoint_dir: Path | str | None = None,
    resume: bool = True,
    config: ScanConfig | None = None,
    report: ScanReport | None = None,
    test_source: Any = None,
    attack: PoisonSettings | None = None,
    compare: bool = False,
    cache_dir: Path | str | None = None,
    use_cache: bool = True,
    refresh: bool = False,
    progress: Progress | None = None,
    on_epoch: OnEpoch | None = None,
) -> TrainingResult:
    """Return a model trained on what a scan has kept, with what it learnt from and how safe it is.

    On one device with one number of threads, equal arguments give equal weights.

    Args:
        source: anything that `vbdguard.scan` takes.
        model: `preact_resnet18`, `small` (minutes on a processor), a torchvision classifier's name, a module with
            an output per class (a copy is trained), or a function from the number of classes to one.
        epochs: passes over the lessons; None, here and for the three below, takes the model's recipe.
        policy: `suppress`, `relabel` or `unlearn` flagged samples (`vbdguard.training.settings`).
        init: weights to start from, such as a poisoned model's: a file, an earlier output folder or a state dict.
        batch_size: samples per step, at least 2.
        lr: largest learning rate, above 0.
        weight_decay: at least 0.
        augment: whether images are shifted and mirrored at random.
        normalization: channel means and deviations that the model wants; None takes those that `init` was trained
            with, where its file says so, else those of the kept samples.
        amp: whether activations are bfloat16: `auto` (where the hardware has it), `on` or `off`.
        device: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.
        seed: seed of initial weights, order and augmentation.
        checkpoint_dir: folder for the state after each epoch and the trained weights; None keeps none.
        resume: whether to go on from a checkpoint there; one of another training is refused.
        config: settings of the scan; None takes the defaults on `device`.
        report: the outcome of an earlier scan of the same data; then no scan runs.
        test_source: clean, labelled samples for clean accuracy and attack success rate.
        attack: the attack to try on them, where it is known; None tries the triggers that the scan has extracted.
        compare: also train on everything, to know what the poison would have done; doubles the time.
        cache_dir: where reports and pixels are cached; None takes the default place.
        use_cache: whether to keep and use them; otherwise everything goes to a temporary directory.
        refresh: scan anew even where the cache holds the answer.
        progress: hears of the scan's stages and of the training.
        on_epoch: called with each epoch's result.

    Raises:
        ConfigError: if a setting cannot be right, the model does not fit the data, or the checkpoint is another's.
        SourceError: if a source cannot be understood; NothingToScanError if it holds too little.
        UnscannedSampleError: if the data are not those that the report speaks of.
        CacheError: if the cache cannot be written.
    """
    _refuse_contradictions(init=init, test_source=test_source, attack=attack, compare=compare)
    check_name(model)
    place = resolve_device(device)
    dtype = resolve_dtype(amp, place)
    initial = None if init is None else load_initial(init)
    settings = resolve_settings(
        model_name(model),
        policy=policy,
        has_initial_weights=initial is not None,
        seed=seed,
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        weight_decay=weight_decay,
        augment=augment,
    )
    heard = progress or current_listener()
    config = config or ScanConfig(device=device)
    clock = _Clock()
    with cache_folder(cache_dir, use_cache=use_cache) as cache:
        with clock.measuring("scan"):
            report = report or scan(source, config, cache_dir=cache, refresh=refresh, progress=heard)
            store = read_scanned(source, report, config, cache, heard)
        lessons, counts = plan_lessons(store, report, policy)
        _warn_of_lost_classes(store, lessons)
        wanted = normalization or (initial.normalization if initial else None)
        course = _plan_course(store, lessons, settings, wanted, place, dtype)
        workshop = Workshop(
            store=store,
            dataset_digest=report.dataset.digest,
            model=model,
            initial=initial,
            checkpoint_dir=None if checkpoint_dir is None else Path(checkpoint_dir),
            resume=resume,
            progress=heard,
        )
        network = workshop.build(course)
        exam = None
        if test_source is not None:
            attacks = known_attacks(attack, store) if attack else extracted_attacks(report, store)
            test = read_test_set(test_source, store.image_shape[:2], config, cache, heard)
            exam = prepare_exam(test, store, attacks, course)
        with clock.measuring("comparison"):
            before = _grade_before(network, workshop, course, exam, compare=compare)
        with clock.measuring("training"):
            history = workshop.train(network, course, title=TITLE, on_epoch=on_epoch)
        with clock.measuring("exam"):
            after = exam.grade(network) if exam else None
    return TrainingResult(
        model=network,
        report=report,
        model_name=model_name(model),
        status="incomplete" if _has_loose_ends(report) else report.status,
        counts=counts,
        epochs=history,
        class_labels=store.class_labels,
        class_names=store.class_names,
        mean=course.normalization.mean,
        std=course.normalization.std,
        clean_accuracy=after.accuracy if after else None,
        clean_accuracy_before=before.accuracy if before else None,
        attacks=exam.compare(store, before, after) if exam and after else (),
        settings=workshop.identity(network, course),
        seconds=clock.seconds(),
    )


def _refuse_contradictions(*, init: object, test_source: object, attack: object, compare: bool) -> None:
    if test_source is None and (compare or attack is not None):
        raise ConfigError("to compare models or to try an attack, test samples are needed; pass test_source (--test)")
    if compare and init is not None:
        raise ConfigError("init is the model before; leave compare out (--compare trains one from scratch)")


def _warn_of_lost_classes(store: PixelStore, lessons: Lessons) -> None:
    taught = np.bincount(lessons.labels[~lessons.is_unlearnt], minlength=len(store.class_labels))
    lost = [store.class_names[index] for index in np.flatnonzero(taught == 0)]
    if lost:
        log.warning("no kept sample is left of class %s; the model will not learn it", ", ".join(lost))


def _plan_course(
    store: PixelStore,
    lessons: Lessons,
    settings: TrainingSettings,
    normalization: Normalization | None,
    device: torch.device,
    dtype: torch.dtype,
) -> Course:
    """Return the course, normalised as the lessons' own pixels call for where nothing else is wanted."""
    normalization = normalization or Normalization.measure(store, lessons.indices)
    return Course(lessons, PixelFeed(store, device), normalization, settings, len(store.class_labels), device, dtype)


def _has_loose_ends(report: ScanReport) -> bool:
    """Return whether a class has a trigger and no flagged sample, so that its poison trains."""
    names = [entry.name for entry in report.poisoned_classes if not entry.flagged]
    if names:
        log.warning("class %s has a trigger, but no sample of it was flagged: its poison trains", ", ".join(names))
    return bool(names)


def _grade_before(
    network: nn.Module, workshop: Workshop, course: Course, exam: Exam | None, *, compare: bool
) -> Grades | None:
    """Return the grades of the poisoned model: the one to start from, or one trained on everything; None if neither."""
    if exam is None:
        return None
    if workshop.initial is not None:
        return exam.grade(network)
    if not compare:
        return None
    unguarded = replace(
        course, lessons=everything(workshop.store), settings=replace(course.settings, poisoned_epochs=0)
    )
    poisoned = workshop.build(unguarded)
    workshop.train(poisoned, unguarded, title=COMPARISON_TITLE, folder=COMPARISON_FOLDER)
    return exam.grade(poisoned)


class _Clock:
    """Wall-clock seconds of named stretches."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._measured: dict[str, float] = {}

    @contextmanager
    def measuring(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self._measured[name] = round(time.perf_counter() - start, 3)

    def seconds(self) -> dict[str, float]:
        return self._measured | {"total": round(time.perf_counter() - self._start, 3)}
