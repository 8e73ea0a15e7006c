"""Cutting parquet shards: rows go, while schema, metadata, row order, row groups and compression stay."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vbdguard.atomic import replacing
from vbdguard.errors import ReadError
from vbdguard.sources.base import Unreadable
from vbdguard.sources.columns import sample_columns
from vbdguard.sources.cutting import Fate, Places, Rule, Ruling, Written, copy_file
from vbdguard.sources.parquet import ROWS_PER_BATCH, ParquetShard, opened_parquet

if TYPE_CHECKING:
    import pyarrow as pa

MAX_GROUP = 128 << 20
"""Bytes of rows that are held before they are written: some files are a single row group."""


@dataclass(frozen=True, slots=True)
class ParquetPlan:
    """A shard and what becomes of its rows."""

    shard: ParquetShard
    digest: str
    """Hex BLAKE3 of the file that was planned on."""
    rulings: Sequence[Ruling]
    """One for each row that can be read, in their order, and one for where the file breaks off."""
    rows: int
    """How many of them are rows."""
    others: Sequence[Unreadable] = ()

    def write(self, places: Places, *, link: bool) -> tuple[Written, ...]:
        """Write the shard's parts under its own name; see `CuttingPlan`."""
        roots = {Fate.KEPT: places.kept, Fate.FLAGGED: places.flagged, Fate.SKIPPED: places.skipped}
        rows = self.rulings[: self.rows]
        paths = {
            fate: root / self.shard.name
            for fate, root in roots.items()
            if fate is Fate.KEPT or any(ruling.fate is fate for ruling in rows)
        }
        for path in paths.values():
            path.parent.mkdir(parents=True, exist_ok=True)
        if all(ruling.fate is Fate.KEPT for ruling in self.rulings):
            copy_file(self.shard.path, paths[Fate.KEPT], link=link)
        else:
            self._filter(paths)
        if self.shard.digest() != self.digest:
            raise ReadError("changed", f"{self.shard.name} changed while it was copied; run it again at rest")
        return tuple(
            Written(fate, ParquetShard(str(path), self.shard.name, self.shard.label_key), (path,))
            for fate, path in paths.items()
        )

    def _filter(self, paths: dict[Fate, Path]) -> None:
        with opened_parquet(self.shard.path) as file, ExitStack() as stack:
            label = sample_columns(file.schema_arrow, self.shard.label_key)[1]
            writers = {fate: stack.enter_context(_GroupWriter(path, file)) for fate, path in paths.items()}
            rulings = iter(self.rulings[: self.rows])
            for batch in _batches(file, self.rows):
                part = list(islice(rulings, batch.num_rows))
                for fate, writer in writers.items():
                    wanted = [(ruling.fate.stays if fate is Fate.KEPT else ruling.fate is fate) for ruling in part]
                    writer.add(_chosen(_relabelled(batch, label, part) if fate is Fate.KEPT else batch, wanted))


def plan_parquet(shard: ParquetShard, rule: Rule) -> ParquetPlan:
    """Return what becomes of each row of a shard.

    Raises:
        ReadError: if the shard as a whole cannot be read.
    """
    digest = shard.digest()
    rulings, rows = [], 0
    for entry in shard.read():
        rulings.append(rule(entry))
        rows += not (isinstance(entry, Unreadable) and entry.is_shard)
    return ParquetPlan(shard, digest, rulings, rows)


class _GroupWriter:
    """A context that writes rows to a new file, in row groups as long as those of a given file at most."""

    def __init__(self, path: Path, like: Any) -> None:
        self._path = path
        self._schema = like.schema_arrow
        groups = [like.metadata.row_group(number) for number in range(like.metadata.num_row_groups)]
        self._rows = max((group.num_rows for group in groups), default=ROWS_PER_BATCH)
        columns = [groups[0].column(number) for number in range(groups[0].num_columns)] if groups else []
        self._compression = {
            column.path_in_schema: "none" if column.compression == "UNCOMPRESSED" else column.compression.lower()
            for column in columns
        }
        self._held: list[pa.RecordBatch] = []
        self._stack = ExitStack()

    def __enter__(self) -> _GroupWriter:
        from pyarrow import parquet

        file = self._stack.enter_context(replacing(self._path))
        compression = self._compression or "snappy"
        self._writer = self._stack.enter_context(parquet.ParquetWriter(file, self._schema, compression=compression))
        return self

    def __exit__(self, *error: Any) -> bool | None:
        if error[0] is None:
            try:
                self._flush()
            except BaseException as failure:
                self._stack.__exit__(type(failure), failure, failure.__traceback__)
                raise
        return self._stack.__exit__(*error)

    def add(self, batch: pa.RecordBatch) -> None:
        """Append rows."""
        if not batch.num_rows:
            return
        self._held.append(batch)
        rows = sum(one.num_rows for one in self._held)
        if rows >= self._rows or sum(one.nbytes for one in self._held) >= MAX_GROUP:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa

        if self._held:
            self._writer.write_table(pa.Table.from_batches(self._held, self._schema), row_group_size=self._rows)
            self._held = []


def _batches(file: Any, rows: int) -> Iterator[pa.RecordBatch]:
    """Yield the first `rows` rows with all their columns."""
    import pyarrow as pa

    try:
        for batch in file.iter_batches(batch_size=ROWS_PER_BATCH, use_threads=False):
            if rows <= 0:
                return
            yield batch.slice(0, rows)
            rows -= batch.num_rows
    except (pa.ArrowException, OSError) as error:
        raise ReadError(
            "corrupt", f"a column beside image and label is damaged: {error}; write the file anew"
        ) from error


def _relabelled(batch: pa.RecordBatch, column: str, rulings: Sequence[Ruling]) -> pa.RecordBatch:
    import pyarrow as pa

    changed = {index: ruling.new_label for index, ruling in enumerate(rulings) if ruling.fate is Fate.RELABELLED}
    if not changed:
        return batch
    labels = [changed.get(index, label) for index, label in enumerate(batch.column(column).to_pylist())]
    number = batch.schema.get_field_index(column)
    field = batch.schema.field(number)
    return batch.set_column(number, field, pa.array(labels, type=field.type))


def _chosen(batch: pa.RecordBatch, wanted: Sequence[bool]) -> pa.RecordBatch:
    import pyarrow as pa

    return batch if all(wanted) else batch.filter(pa.array(wanted, type=pa.bool_()))
