"""Make text from the data safe to show.

Keys, class names and error details come from files that an attacker may have made. Control characters could
move the cursor or hide a line, and direction marks could turn a name around.
"""

from __future__ import annotations

_LIMIT = 400


def printable(text: str) -> str:
    r"""Return `text` with everything that is not a visible character spelled out (`\x1b`, `\u202e`), cut if long."""
    if len(text) > _LIMIT:
        half = _LIMIT // 2
        text = f"{text[:half]} ...[{len(text) - 2 * half} more]... {text[-half:]}"
    return "".join(char if char.isprintable() else _spelled(char) for char in text)


def _spelled(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")
