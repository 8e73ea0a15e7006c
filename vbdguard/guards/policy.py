"""What a guard does with poisoned samples and with samples that no scan has seen.

    on_poison       drop     leave flagged samples out (default)
                    relabel  keep them with the class that the scan suggests; drop those without a suggestion
                    warn     keep everything and warn
                    raise    stop with PoisonFoundError

    on_unscanned    raise    stop with UnscannedSampleError (default)
                    drop     leave samples out that the scan could not read
                    warn     keep them and warn

A class with a trigger but without a flagged sample has nothing to drop; it always earns a warning.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from vbdguard.errors import ConfigError, PoisonFoundError, UnscannedSampleError
from vbdguard.report import ClassReport, ScanReport, SkippedSample

OnPoison = Literal["drop", "relabel", "warn", "raise"]
OnUnscanned = Literal["raise", "drop", "warn"]

_SHOWN = 3
"""How many samples a message names before it counts the rest."""


class GuardWarning(UserWarning):
    """A guard lets something pass because its policy says so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The two words that steer a guard; the module's docstring says what they mean.

    Raises:
        ConfigError: if a word is not one of those.
    """

    on_poison: OnPoison = "drop"
    on_unscanned: OnUnscanned = "raise"

    def __post_init__(self) -> None:
        _check_word("on_poison", self.on_poison, get_args(OnPoison))
        _check_word("on_unscanned", self.on_unscanned, get_args(OnUnscanned))

    def meet_poison(self, report: ScanReport, *, name: str, flagged: int) -> None:
        """Raise or warn, as the policy says, where a report holds poison.

        Args:
            report: the scan's outcome.
            name: what was scanned, for the message.
            flagged: how many of its samples the report flags.

        Raises:
            PoisonFoundError: under `raise`, if the verdict is "poisoned" or a sample is flagged.
        """
        if report.verdict == "clean" and not flagged:
            return
        found = f"{name}: {flagged} poisoned samples, classes {_names(report.poisoned_classes)}"
        if self.on_poison == "raise":
            raise PoisonFoundError(f'{found}; the guard\'s report says more; on_poison="drop" trains without them')
        if self.on_poison == "warn":
            _warn(f'{found}; on_poison="warn" lets them pass')
        elif unflagged := [entry for entry in report.poisoned_classes if not entry.flagged]:
            _warn(f"{name}: a trigger but no sample to take out in classes {_names(unflagged)}; look at the report")

    def meet_unscanned(self, entries: Sequence[SkippedSample], *, name: str) -> None:
        """Raise or warn, as the policy says, where samples could not be scanned.

        Args:
            entries: what could not be scanned and why.
            name: what was scanned, for the message.

        Raises:
            UnscannedSampleError: under `raise`, if there is any entry.
        """
        if not entries:
            return
        shown = "; ".join(f"{entry.key}: {entry.reason}, {entry.detail}" for entry in entries[:_SHOWN])
        rest = f"; and {len(entries) - _SHOWN} more" if len(entries) > _SHOWN else ""
        found = f"{name}: {len(entries)} samples could not be scanned ({shown}{rest})"
        if self.on_unscanned == "raise":
            raise UnscannedSampleError(f'{found}; repair them, or pass on_unscanned="drop" to train without them')
        if self.on_unscanned == "warn":
            _warn(f'{found}; on_unscanned="warn" lets them pass')

    def meet_changed_file(self, path: str, *, name: str, is_seen: bool = True) -> None:
        """Raise or warn about a file that is not the one that was scanned.

        Args:
            path: of the file.
            name: the dataset, for the message.
            is_seen: whether its image was looked at; otherwise all that is known is that the file was changed.

        Raises:
            UnscannedSampleError: under `raise`, and under `drop`: an index that was promised cannot be left out.
        """
        found = f"{path}: expected the image that was scanned, got another one; {name} was guarded before it changed"
        if not is_seen:
            found = (
                f"{path}: the file changed since {name} was guarded; whether its image did cannot be told in this "
                "process, where raw= could not be sent (a dataset can be, or a function that a module defines)"
            )
        if self.on_unscanned != "warn":
            raise UnscannedSampleError(
                f"{found}; put the file back, or scan what is there now: vbdguard.GuardedDataset(dataset), made anew"
            )
        _warn(f'{found}; on_unscanned="warn" lets it pass')


def _check_word(setting: str, word: object, words: Sequence[str]) -> None:
    if word not in words:
        raise ConfigError(f"{setting} must be one of {', '.join(words)}, got {word!r}")


def _names(classes: Sequence[ClassReport]) -> str:
    return ", ".join(f"{entry.label} ({entry.name})" for entry in classes)


def _warn(message: str) -> None:
    # The stack between here and the caller's line differs from access to access; the message names the dataset.
    warnings.warn(message, GuardWarning, stacklevel=2)
