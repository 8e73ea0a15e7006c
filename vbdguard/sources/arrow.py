"""Arrow files: what `Dataset.save_to_disk` of Hugging Face writes (a stream), and the file format (Feather)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, BinaryIO, ClassVar

from vbdguard.errors import ReadError, SourceError, damage
from vbdguard.sources.base import ExifRule, RawSample, Unreadable
from vbdguard.sources.columns import KEY_COLUMN, batch_samples, class_names, sample_columns
from vbdguard.sources.faults import within_faults
from vbdguard.sources.files import file_digest, head, open_binary
from vbdguard.sources.pointers import pointer_error

if TYPE_CHECKING:
    import pyarrow as pa

FILE_MAGIC = b"ARROW1"
STREAM_MAGIC = b"\xff\xff\xff\xff"
"""What each message of a stream begins with; four bytes of its length follow."""
END_MARK = STREAM_MAGIC + bytes(4)
ROWS_PER_SLICE = 256
MAX_BATCH = 512 << 20
"""Bytes of one record batch, which is held as a whole."""


@dataclass(slots=True)
class ArrowShard:
    """One arrow file, read by record batches.

    Args:
        path: a local path or an fsspec URL.
        name: the shard's name in the report.
        label_key: the label's column; None takes the first usual one.
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
        if error := pointer_error(head(self.path), "an arrow file"):
            raise error
        with opened_arrow(self.path) as reader:
            image, label = sample_columns(reader.schema, self.label_key)
            try:
                yield from within_faults(self._rows(reader, image, label))
            except ReadError as error:
                yield Unreadable(self.name, error.reason, error.detail, is_shard=True)
        if self._digest not in (None, file_digest(self.path)):
            raise ReadError("changed", f"{self.name} changed while it was read; scan again once it is at rest")

    def _rows(self, reader: _Reader, image: str, label: str) -> Iterator[RawSample | Unreadable]:
        columns = [name for name in (KEY_COLUMN, image, label) if reader.schema.names.count(name) == 1]
        row = 0
        for batch in _batches(reader, columns):
            for start in range(0, batch.num_rows, ROWS_PER_SLICE):
                part = batch.slice(start, ROWS_PER_SLICE)
                yield from batch_samples(part, image, label, shard=self.name, first_row=row + start)
            row += batch.num_rows


@dataclass(frozen=True, slots=True)
class _Reader:
    """pyarrow's reader with the file that it reads."""

    stream: BinaryIO
    inner: Any
    is_file: bool

    @property
    def schema(self) -> pa.Schema:
        """The columns."""
        schema: pa.Schema = self.inner.schema
        return schema

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield all batches, then prove that the stream ended: without its end mark pyarrow takes a cut for the end.

        Raises:
            ReadError: "truncated", or "corrupt" where more stands behind the end.
        """
        if self.is_file:
            for number in range(self.inner.num_record_batches):
                yield self.inner.get_batch(number)
            return
        yield from self.inner
        end = self.stream.tell()
        self.stream.seek(max(0, end - len(END_MARK)))
        if self.stream.read(len(END_MARK)) != END_MARK:
            raise ReadError("truncated", "expected the mark at the end of an arrow stream, the file ends without it")
        if self.stream.read(1):
            raise ReadError("corrupt", "expected nothing behind the end of the stream, got more; write it anew")


def arrow_class_names(paths: Sequence[str], label_key: str | None) -> dict[int, str] | None:
    """Return the names of the class numbers that the files' schemas state, None where none does.

    Raises:
        SourceError: if pyarrow is missing, or two files give a number different names.
    """
    stated: dict[int, str] | None = None
    for path in paths:
        try:
            with opened_arrow(path) as reader:
                names = class_names(reader.schema, label_key)
        except ReadError:
            continue  # the shard itself reports why it cannot be read
        if stated is not None and names is not None and names != stated:
            raise SourceError(f"{path} numbers its classes otherwise than the files before it; scan them one by one")
        stated = names if stated is None else stated
    return stated


@contextmanager
def opened_arrow(path: str) -> Iterator[_Reader]:
    """Yield a reader of the record batches of an arrow file or stream.

    Raises:
        ReadError: "io-error" or "corrupt".
        SourceError: if pyarrow is missing.
    """
    try:
        from pyarrow import ipc
    except ImportError as error:
        raise SourceError(f"{path}: arrow files need pyarrow; pip install 'vbdguard[parquet]'") from error
    with open_binary(path) as stream:
        try:
            is_file = stream.read(len(FILE_MAGIC)) == FILE_MAGIC
            stream.seek(0)
            reader = ipc.open_file(stream) if is_file else ipc.open_stream(stream)
        except Exception as error:  # whatever the library makes of bytes that are no arrow file
            raise ReadError("corrupt", f"expected a whole arrow file: {error}") from error
        yield _Reader(stream, reader, is_file)


def _batches(reader: _Reader, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """Yield the batches with some columns; each is checked first, since Arrow trusts the offsets in a file."""
    import pyarrow as pa

    try:
        for batch in reader.batches():
            if batch.nbytes > MAX_BATCH:
                raise ReadError("too-large", f"expected batches of at most {MAX_BATCH} bytes, got {batch.nbytes}")
            wanted = batch.select(columns)
            wanted.validate(full=True)
            yield wanted
    except (pa.ArrowException, OSError, ValueError, TypeError, OverflowError, MemoryError) as error:
        raise damage(error, "the arrow file") from error
