"""Brace patterns such as `train-{000..009}.tar`, expanded as webdataset expands them, but counted first.

The library writes out alternatives before it yields the first one: thirty nested lists in a line of text would keep
it busy for minutes.
"""

from __future__ import annotations

import re
from string import ascii_lowercase, ascii_uppercase

from vbdguard.errors import SourceError

MAX_PATHS = 100_000
"""A pattern of more is a slip of the hand: `{0..999999999}` would fill the memory before the first read."""
MAX_LENGTH = 4096
"""Characters of a pattern."""
MAX_DEPTH = 20
MAX_CHARACTERS = 64 << 20
"""Of all paths together."""

_RANGE = re.compile(r"(-?\d+)\.\.(-?\d+)(?:\.\.-?(\d+))?|([A-Za-z])\.\.([A-Za-z])(?:\.\.-?(\d+))?")


def expand_braces(pattern: str) -> list[str]:
    """Return the paths that a pattern stands for.

    Raises:
        SourceError: if there are more than `MAX_PATHS`, the braces do not match, or the pattern is no path any more.
    """
    if len(pattern) > MAX_LENGTH:
        raise SourceError(f"{pattern[:80]}...: expected a pattern of at most {MAX_LENGTH} characters")
    if "{" not in pattern and "}" not in pattern and "\\" not in pattern:
        return [pattern]
    count = count_paths(pattern)
    if count > MAX_PATHS or count * len(pattern) > MAX_CHARACTERS:
        raise SourceError(f"{pattern} stands for more than {MAX_PATHS} shards; narrow the range")
    from braceexpand import braceexpand

    try:
        return list(braceexpand(pattern))
    except ValueError as error:
        raise _unbalanced(pattern) from error


def count_paths(pattern: str) -> int:
    """Return how many paths a pattern stands for, without writing them out; at most one more than `MAX_PATHS`.

    Raises:
        SourceError: if the braces do not match, or are nested more than `MAX_DEPTH` deep.
    """
    # For each open brace: where its content begins, the paths of the alternatives behind us, those of this one so far.
    levels: list[tuple[int, int, int]] = [(0, 0, 1)]
    position = 0
    while position < len(pattern):
        char = pattern[position]
        start, finished, current = levels[-1]
        if char == "\\":
            position += 1
        elif char == "{":
            if len(levels) > MAX_DEPTH:
                raise SourceError(f"{pattern}: expected braces nested at most {MAX_DEPTH} deep")
            levels.append((position + 1, 0, 1))
        elif char == "," and len(levels) > 1:
            levels[-1] = (start, finished + current, 1)
        elif char == "}":
            if len(levels) == 1:
                raise _unbalanced(pattern)
            levels.pop()
            inside = _range_count(pattern[start:position]) or finished + current
            outer_start, outer_finished, outer = levels[-1]
            levels[-1] = (outer_start, outer_finished, min(outer * inside, MAX_PATHS + 1))
        position += 1
    if len(levels) > 1:
        raise _unbalanced(pattern)
    return min(levels[0][2], MAX_PATHS + 1)


def _range_count(content: str) -> int:
    """Return how many paths a range stands for, 0 where it is none."""
    match = _RANGE.fullmatch(content)
    if match is None:
        return 0
    first, last, step = match.groups()[3:] if match[4] else match.groups()[:3]
    width = _letters_between(first, last) if match[4] else abs(int(last) - int(first))
    return min(width // max(1, int(step or 1)) + 1, MAX_PATHS + 1)


def _letters_between(first: str, last: str) -> int:
    """Return how far two letters stand apart where the capital ones come first."""
    letters = ascii_uppercase + ascii_lowercase
    return abs(letters.index(last) - letters.index(first))


def _unbalanced(pattern: str) -> SourceError:
    return SourceError(f"{pattern}: the braces do not match; write for example train-{{000..009}}.tar")
