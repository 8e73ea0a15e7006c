"""guard_training(): the guard in a plain training script, in one process or in many.

    loader = guard_training(DataLoader(dataset, batch_size=128, shuffle=True, num_workers=4))

One process of the job scans, or finds the verdict in the cache, and says in a few lines on stderr what it found. The
others wait and take its report, after making sure that it speaks of the data that they have. After that
nothing of this is left in the way of training.

Where torch.distributed is set up, rank 0 scans and sends its report to all, so call this in every process, after
`init_process_group`. Where it is not, processes on one machine share one scan through the cache's lock.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, Unpack, overload

from vbdguard.config import ScanConfig
from vbdguard.errors import VBDGuardError
from vbdguard.guards.options import GuardOptions, Keywords
from vbdguard.guards.policy import OnPoison, OnUnscanned
from vbdguard.progress import heard_by
from vbdguard.report import ScanReport
from vbdguard.summary import summarise

from .inspecting import counts_of, guards_in, is_guarded, report_of
from .processes import Conversation, can_talk, conversation, job_rank
from .progress_lines import ProgressLines

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

__all__ = ["PATIENCE", "Write", "counts_of", "guard_alone", "guard_in_job", "guard_training", "report_of", "to_stderr"]

PATIENCE = timedelta(hours=12)
"""How long processes wait for the one that scans. Its death is noticed at once, whatever this says."""

Write = Callable[[str], object]
_Loader = TypeVar("_Loader", bound="DataLoader[Any]")


@overload
def guard_training(
    target: _Loader, *, quiet: bool = ..., patience: timedelta = ..., **options: Unpack[Keywords]
) -> _Loader: ...


@overload
def guard_training(
    target: Any, *, quiet: bool = ..., patience: timedelta = ..., **options: Unpack[Keywords]
) -> Any: ...


def guard_training(
    target: Any,
    *,
    on_poison: OnPoison = "drop",
    on_unscanned: OnUnscanned = "raise",
    raw: Any | None = None,
    config: ScanConfig | None = None,
    report: ScanReport | None = None,
    cache_dir: str | Path | None = None,
    quiet: bool = False,
    patience: timedelta = PATIENCE,
) -> Any:
    """Return `target` guarded, once the data are scanned; the keywords not named here are those of `vbdguard.guard`.

    Args:
        target: a DataLoader, a dataset or a pipeline; not altered.
        on_poison: `drop`, `relabel`, `warn` or `raise`.
        on_unscanned: `raise`, `drop` or `warn`.
        raw: the untransformed samples, where the guard asks for them.
        config: settings of the scan; None takes the defaults.
        report: the outcome of an earlier scan of these data.
        cache_dir: where reports and pixels are cached.
        quiet: say nothing on stderr.
        patience: how long other processes wait for the one that scans.

    Raises:
        VBDGuardError: in every process of the job, if the data cannot be guarded in one of them; what
            `vbdguard.guard` raises, in the process where it happened.
    """
    options = GuardOptions(
        on_poison=on_poison, on_unscanned=on_unscanned, raw=raw, config=config, report=report, cache_dir=cache_dir
    )
    return guard_in_job(target, options, write=None if quiet else to_stderr, patience=patience)


def guard_in_job(target: Any, options: GuardOptions, *, write: Write | None, patience: timedelta = PATIENCE) -> Any:
    """Return what `guard_training` returns; rank 0 speaks through `write`, if there is one."""
    speaker = write if job_rank() == 0 else None
    if not can_talk() or is_guarded(target):
        return guard_alone(target, options, write=speaker)
    with conversation(patience) as others:
        return _guard_together(target, options, others, write=speaker)


def guard_alone(target: Any, options: GuardOptions, *, write: Write | None) -> Any:
    """Return `target` guarded and scanned by this process alone, which says so through `write`, if there is one."""
    from vbdguard.guards.dataset import GuardedDataset
    from vbdguard.guards.wrapping import guard

    with heard_by(ProgressLines(write)) if write else nullcontext():
        guarded = target if is_guarded(target) else guard(target, **options.for_datasets())
        guards = guards_in(guarded)
        reports = [inner.report for inner in guards]
    if write:
        for report in reports:
            write(summarise(report, on_poison=options.on_poison))
    for inner in guards:
        # A guard that acts at first use acts here: under "raise" after the summary, and before the first batch.
        if isinstance(inner, GuardedDataset):
            len(inner)
    return guarded


def _guard_together(target: Any, options: GuardOptions, others: Conversation, *, write: Write | None) -> Any:
    """Rank 0 first, then the others with its report; no process goes on to training unless all can."""
    guarded, error = None, None
    if others.rank == 0:
        guarded, error = _attempt(target, options, write=write)
    verdict = others.from_first(report_of(guarded).to_json() if guarded is not None else "")
    if others.rank != 0 and verdict:
        report = ScanReport.from_json(verdict)
        guarded, error = _attempt(target, replace(options, report=report), write=None)
    failed = others.failures(error is not None or not verdict)
    if error is not None:
        raise error
    if not verdict:
        raise VBDGuardError("rank 0 could not guard the data, so no process trains; its own output says why")
    if failed:
        ranks = ", ".join(str(rank) for rank in failed)
        raise VBDGuardError(f"rank {ranks} could not guard the data, so no process trains; its own output says why")
    return guarded


def _attempt(target: Any, options: GuardOptions, *, write: Write | None) -> tuple[Any, Exception | None]:
    try:
        return guard_alone(target, options, write=write), None
    except Exception as error:
        # Kept, not swallowed: the others must hear of it before it is raised here.
        return None, error


def to_stderr(text: str) -> None:
    """Write to stderr at once."""
    sys.stderr.write(text)
    sys.stderr.flush()
