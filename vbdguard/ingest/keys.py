"""Keys of samples by the million: held as bytes in one piece, a third of what as many `str` take."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import overload

import numpy as np
from numpy.typing import NDArray


class LazyKeys(Sequence[str]):
    """A sequence that makes each key when it is asked for, and equals any sequence of the same keys."""

    __slots__ = ()
    __hash__ = None  # type: ignore[assignment]  # as a list, it is compared by its items

    @abstractmethod
    def key_at(self, index: int) -> str:
        """Return the key at `index`, 0 to len - 1."""

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[str, ...]: ...

    def __getitem__(self, index: int | slice) -> str | tuple[str, ...]:
        """Return one key, or some of them."""
        if type(index) is int and 0 <= index < len(self):  # nearly always, and a third of the time
            return self.key_at(index)
        places = range(len(self))[index]
        return self.key_at(places) if isinstance(places, int) else tuple(map(self.key_at, places))

    def __eq__(self, other: object) -> bool:
        """Return whether `other` is a sequence of the same keys."""
        if not isinstance(other, Sequence) or isinstance(other, str):
            return NotImplemented
        return len(self) == len(other) and all(one == two for one, two in zip(self, other, strict=True))


class PackedKeys(LazyKeys):
    """Keys of one shard.

    Args:
        keys: in their order.
    """

    __slots__ = ("_ends", "_text")

    def __init__(self, keys: Iterable[str]) -> None:
        encoded = [key.encode("utf-8", "surrogatepass") for key in keys]
        self._text = b"".join(encoded)
        self._ends = np.fromiter(accumulate(map(len, encoded), initial=0), np.int64, len(encoded) + 1)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def key_at(self, index: int) -> str:
        """Return the key at `index`, 0 to len - 1."""
        return self._text[self._ends[index] : self._ends[index + 1]].decode("utf-8", "surrogatepass")


class ShardKeys(LazyKeys):
    """Keys of the samples of many shards, in any order.

    Args:
        shards: the keys of each shard.
        prefixes: what the keys of each shard begin with.
        rows: (N, 2) shard and place in it of each sample.
    """

    __slots__ = ("_prefixes", "_rows", "_shards")

    def __init__(self, shards: Sequence[Sequence[str]], prefixes: Sequence[str], rows: NDArray[np.int32]) -> None:
        self._shards = shards
        self._prefixes = prefixes
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def key_at(self, index: int) -> str:
        """Return the key at `index`, 0 to len - 1."""
        shard, place = self._rows.item(index, 0), self._rows.item(index, 1)
        return self._prefixes[shard] + self._shards[shard][place]
