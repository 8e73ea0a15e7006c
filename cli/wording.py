"""How a report is put into words: `vbdguard.wording`, for the modules beside this one."""

from __future__ import annotations

from vbdguard.wording import (
    STAGE_WORDS,
    WHOLE_IMAGE,
    attack_words,
    blend_words,
    class_words,
    count_words,
    p_value_words,
    percent,
    place_words,
    seconds_words,
    trigger_words,
)

__all__ = [
    "STAGE_WORDS",
    "WHOLE_IMAGE",
    "attack_words",
    "blend_words",
    "class_words",
    "count_words",
    "p_value_words",
    "percent",
    "place_words",
    "seconds_words",
    "trigger_words",
]
