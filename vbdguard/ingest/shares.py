"""One share of a data set's shards: what one of several jobs reads that know nothing of each other."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from vbdguard.errors import ConfigError

_FORM = re.compile(r"([0-9]{1,9})/([0-9]{1,9})")


@dataclass(frozen=True, slots=True)
class Share:
    """Share `number` of `count`: every `count`-th shard in the order of their names, from the `number`-th on.

    The rule knows names only, so jobs agree on it without a word, wherever they run and in whatever order a folder
    lists them; shards of one data set are mostly alike, so shares are, too.

    Raises:
        ConfigError: if `number` is not 1 to `count`.
    """

    number: int = 1
    count: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            raise ConfigError(f"expected a share i/N with i from 1 to N, such as 1/8, got {self}")

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the share that `i/N` names.

        Raises:
            ConfigError: if it names none.
        """
        match = _FORM.fullmatch(text)
        if match is None:
            raise ConfigError(f"expected a share i/N with i from 1 to N, such as 1/8, got {text!r}")
        return cls(int(match[1]), int(match[2]))

    def places(self, names: Sequence[str]) -> list[int]:
        """Return the places of this share's shards, ascending.

        Args:
            names: of all shards of the data set, in any order.
        """
        ranked = sorted(range(len(names)), key=lambda place: (names[place], place))
        return sorted(ranked[self.number - 1 :: self.count])
