"""Parquet shards in the Hugging Face layout: an image column, a label column, names in the schema's metadata."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from blake3 import blake3

from vbdguard.errors import ReadError, SourceError, damage
from vbdguard.sources.base import ExifRule, RawSample, Unreadable
from vbdguard.sources.columns import KEY_COLUMN, batch_samples, class_names, sample_columns
from vbdguard.sources.compression import ALLOWANCE, MAX_RATIO
from vbdguard.sources.faults import within_faults
from vbdguard.sources.files import BLOCK, file_bytes, file_digest, file_size, head, open_binary
from vbdguard.sources.pointers import pointer_error
from vbdguard.sources.tar_members import looks_like_tar

if TYPE_CHECKING:
    import pyarrow as pa

PARQUET_MAGIC = b"PAR1"
ROWS_PER_BATCH = 256
MAX_BATCH = 128 << 20
"""Bytes of the rows that are held at a time."""
MAX_CHUNK = 512 << 20
"""Bytes of one column in one row group, which pyarrow may hold as a whole."""
MIN_ROW, MAX_SMALL_ROWS = 16, 10_000
"""Bytes of a row, counted where there are more rows: no image is smaller, but one can stand in millions of rows."""
MAX_HELD = 128 << 20
"""Bytes of a file that is held in memory to be hashed and read at once: its columns are not read in its order."""


@dataclass(slots=True)
class ParquetShard:
    """One parquet file, streamed by record batches.

    Args:
        path: a local path or an fsspec URL.
        name: the shard's name in the report.
        label_key: the label's column; None takes the first of `LABEL_COLUMNS`.
    """

    path: str
    name: str
    label_key: str | None = None
    exif: ClassVar[ExifRule] = "turned"
    """Of Hugging Face's `datasets`, whose layout this is."""
    _digest: str | None = field(default=None, init=False, repr=False, compare=False)

    def digest(self) -> str:
        """Return the hex BLAKE3 of the file as it stands.

        Raises:
            ReadError: "io-error".
        """
        self._digest = file_digest(self.path)
        return self._digest

    def read(self) -> Iterator[RawSample | Unreadable]:
        """Yield the rows; the last entry tells if the file broke off.

        Raises:
            ReadError: "corrupt", "no-image-column", "no-label-column", "io-error", or "changed" where the bytes
                are not those of `digest()`.
        """
        _refuse_others(head(self.path, BLOCK))
        with opened_parquet(self.path) as file:
            yield from self._entries(file)
        if self._digest not in (None, file_digest(self.path)):
            raise ReadError("changed", f"{self.name} changed while it was read; scan again once it is at rest")

    def size(self) -> int | None:
        """Return the file's bytes; None where nobody tells, or for more than `MAX_HELD`."""
        size = file_size(self.path)
        return None if size is None or size > MAX_HELD else size

    def read_and_hash(self, on_digest: Callable[[str], None]) -> Iterator[RawSample | Unreadable]:
        """Yield what `read` yields, from memory; at the end `on_digest` gets the hex BLAKE3 of the file.

        Raises:
            ReadError: "corrupt", "no-image-column", "no-label-column" or "io-error".
        """
        content = file_bytes(self.path)
        _refuse_others(content)
        with opened_parquet(self.path, content) as file:
            yield from self._entries(file)
        on_digest(blake3(content).hexdigest())

    def _entries(self, file: Any) -> Iterator[RawSample | Unreadable]:
        image, label = sample_columns(_schema(file), self.label_key)
        try:
            yield from within_faults(self._rows(file, image, label))
        except ReadError as error:
            yield Unreadable(self.name, error.reason, error.detail, is_shard=True)

    def _rows(self, file: Any, image: str, label: str) -> Iterator[RawSample | Unreadable]:
        columns = [name for name in (KEY_COLUMN, image, label) if name in file.schema_arrow.names]
        row = 0
        for batch in _batches(file, columns):
            yield from batch_samples(batch, image, label, shard=self.name, first_row=row)
            row += batch.num_rows


def _refuse_others(start: bytes) -> None:
    if error := pointer_error(start, "a parquet file"):
        raise error
    if looks_like_tar(start[:BLOCK]):
        raise ReadError("ambiguous-kind", "expected a parquet file, got one that is a tar file as well")


def parquet_class_names(paths: Sequence[str], label_key: str | None) -> dict[int, str] | None:
    """Return the names of the class numbers that the files' schemas state, None where none does.

    Raises:
        SourceError: if pyarrow is missing, or two files give a number different names.
    """
    stated: dict[int, str] | None = None
    for path in paths:
        try:
            with opened_parquet(path) as file:
                names = class_names(_schema(file), label_key)
        except ReadError:
            continue  # the shard itself reports why it cannot be read
        if stated is not None and names is not None and names != stated:
            raise SourceError(f"{path} numbers its classes otherwise than the files before it; scan them one by one")
        stated = names if stated is None else stated
    return stated


def rows_per_batch(file: Any) -> int:
    """Return how many rows are held at a time, so that they stay below `MAX_BATCH`.

    A dictionary can say in a few bytes that the largest image of a row group stands in each of its rows, and no value
    is larger than its column chunk.

    Raises:
        ReadError: "bomb" if the file states that it becomes more than `MAX_RATIO` times its size, or a column chunk of
            more than `MAX_CHUNK` bytes.
    """
    metadata = file.metadata
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    columns = [group.column(number) for group in groups for number in range(metadata.num_columns)]
    packed = sum(column.total_compressed_size for column in columns)
    unpacked = sum(column.total_uncompressed_size for column in columns)
    largest = max((column.total_uncompressed_size for column in columns), default=0)
    if metadata.num_rows > MAX_SMALL_ROWS and packed < MIN_ROW * metadata.num_rows:
        raise ReadError(
            "bomb",
            f"expected {MIN_ROW} bytes for a row at least, {metadata.num_rows} rows take {packed}; are all the same?",
        )
    if largest > MAX_CHUNK or (unpacked > ALLOWANCE and unpacked > MAX_RATIO * packed):
        raise ReadError(
            "bomb",
            f"expected column chunks of at most {MAX_CHUNK} bytes and at most {MAX_RATIO} times the file's size, got "
            f"{largest} and {unpacked} of {packed}; write the file with smaller row groups",
        )
    return max(1, min(ROWS_PER_BATCH, MAX_BATCH // max(1, largest)))


def _schema(file: Any) -> pa.Schema:
    try:
        return file.schema_arrow
    except Exception as error:  # the schema of a file is whatever its writer said
        raise ReadError("corrupt", f"expected a schema that Arrow knows: {error}") from error


def _batches(file: Any, columns: list[str]) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa

    try:
        yield from file.iter_batches(batch_size=rows_per_batch(file), columns=columns, use_threads=False)
    except (pa.ArrowException, OSError, ValueError, TypeError, OverflowError, MemoryError) as error:
        raise damage(error, "the parquet file") from error


@contextmanager
def opened_parquet(path: str, content: bytes | None = None) -> Iterator[Any]:
    """Yield the `pyarrow.parquet.ParquetFile` of a path or URL, its page checksums verified where it has them.

    Args:
        path: the file.
        content: its bytes, where they have been read.

    Raises:
        ReadError: "io-error" or "corrupt".
        SourceError: if pyarrow is missing.
    """
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise SourceError(f"{path}: parquet needs pyarrow; pip install 'vbdguard[parquet]'") from error
    with open_binary(path) if content is None else io.BytesIO(content) as stream:
        try:
            file = parquet.ParquetFile(stream, page_checksum_verification=True)
        except Exception as error:  # UnicodeDecodeError of names too, found by fuzzing
            raise ReadError("corrupt", f"expected a whole parquet file: {error}") from error
        yield file
