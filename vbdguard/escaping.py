"""Make text from the data safe to show.

Keys, class names and error details come from files that an attacker may have made. Control characters could
move the cursor or hide a line, and direction marks could turn a name around. In the log of a CI run, some lines are
orders to the runner: GitHub obeys what begins with `::`, Azure and TeamCity what holds `##vso[` or `##teamcity[`.
"""

from __future__ import annotations

import re

_LIMIT = 400
_ORDERS = re.compile(r":(?=:)|#(?=#(?:\[|vso\[|teamcity\[))", re.IGNORECASE)
"""Every `::`, since a line may be folded before any of them."""


def printable(text: str) -> str:
    r"""Return `text` for a terminal or a log: one visible line, cut if long, and no order to a CI runner.

    What is not a visible character is spelled out (`\x1b`, `\u202e`), and so is the beginning of an order (`\x3a:`).
    """
    if len(text) > _LIMIT:
        half = _LIMIT // 2
        text = f"{text[:half]} ...[{len(text) - 2 * half} more]... {text[-half:]}"
    return _ORDERS.sub(lambda match: f"\\x{ord(match[0]):02x}", visible(text))


def visible(text: str) -> str:
    r"""Return `text` with everything that is not a visible character spelled out (`\x1b`, `\u202e`, `\udc80`)."""
    return text if text.isprintable() else "".join(char if char.isprintable() else _spelled(char) for char in text)


def _spelled(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")
