"""Parquet shards in the Hugging Face layout: an image column, a label column, names in the schema's metadata."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from blake3 import blake3

from vbdguard.errors import ReadError, SourceError
from vbdguard.sources.base import RawSample, Unreadable
from vbdguard.sources.files import file_bytes, file_digest, file_size, open_binary
from vbdguard.sources.tar import checked_label
from vbdguard.sources.tar_members import MAX_MEMBER

if TYPE_CHECKING:
    import pyarrow as pa

PARQUET_MAGIC = b"PAR1"
LABEL_COLUMNS = ("label", "labels", "cls", "class")
IMAGE_COLUMNS = ("image", "img", "jpg", "png")
KEY_COLUMN = "__key__"
ROWS_PER_BATCH = 256
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
        with opened_parquet(self.path, content) as file:
            yield from self._entries(file)
        on_digest(blake3(content).hexdigest())

    def _entries(self, file: Any) -> Iterator[RawSample | Unreadable]:
        image, label = sample_columns(file.schema_arrow, self.label_key)
        try:
            yield from self._rows(file, image, label)
        except ReadError as error:
            yield Unreadable(self.name, error.reason, error.detail, is_shard=True)

    def _rows(self, file: Any, image: str, label: str) -> Iterator[RawSample | Unreadable]:
        columns = [name for name in (KEY_COLUMN, image, label) if name in file.schema_arrow.names]
        row = 0
        for batch in _batches(file, columns):
            images, labels = batch.column(image).to_pylist(), batch.column(label).to_pylist()
            keys = batch.column(KEY_COLUMN).to_pylist() if KEY_COLUMN in columns else [None] * len(images)
            for one, value, given in zip(images, labels, keys, strict=True):
                key = f"{self.name}/{row if given is None else given}"
                try:
                    yield RawSample(key, _image_bytes(one), _label(value, label))
                except ReadError as error:
                    yield Unreadable(key, error.reason, error.detail)
                row += 1


def parquet_class_names(paths: Sequence[str], label_key: str | None) -> dict[int, str] | None:
    """Return the names of the class numbers that the files' schemas state, None where none does.

    Raises:
        SourceError: if pyarrow is missing, or two files give a number different names.
    """
    stated: dict[int, str] | None = None
    for path in paths:
        try:
            with opened_parquet(path) as file:
                names = _class_names(file.schema_arrow, label_key)
        except ReadError:
            continue  # the shard itself reports why it cannot be read
        if stated is not None and names is not None and names != stated:
            raise SourceError(f"{path} numbers its classes otherwise than the files before it; scan them one by one")
        stated = names if stated is None else stated
    return stated


def _class_names(schema: pa.Schema, label_key: str | None) -> dict[int, str] | None:
    try:
        features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
        names = features[sample_columns(schema, label_key)[1]]["names"]
    except (KeyError, TypeError, ValueError):
        return None
    return {number: str(name) for number, name in enumerate(names)} if isinstance(names, list) else None


def sample_columns(schema: pa.Schema, label_key: str | None) -> tuple[str, str]:
    """Return the names of the image and the label column.

    Raises:
        ReadError: "no-image-column" or "no-label-column".
    """
    found = [name for name in schema.names if _holds_images(schema.field(name).type)]
    usual = [name for name in IMAGE_COLUMNS if name in found] or found
    if len(usual) != 1:
        what = f"several: {', '.join(usual)}" if usual else f"the columns {', '.join(schema.names)}"
        raise ReadError("no-image-column", f"expected one column of struct<bytes, path> or binary, got {what}")
    wanted = (label_key,) if label_key else LABEL_COLUMNS
    labels = [name for name in wanted if name in schema.names]
    if not labels:
        raise ReadError(
            "no-label-column",
            f"expected a label column ({', '.join(wanted)}), got the columns {', '.join(schema.names)}; "
            "name it with --label-key",
        )
    return usual[0], labels[0]


def _holds_images(kind: pa.DataType) -> bool:
    from pyarrow import types

    if types.is_struct(kind):
        return any(kind.field(number).name == "bytes" for number in range(kind.num_fields))
    return bool(types.is_binary(kind) or types.is_large_binary(kind))


def _image_bytes(value: bytes | dict[str, Any] | None) -> bytes:
    data = value.get("bytes") if isinstance(value, dict) else value
    if not data:
        path = value.get("path") if isinstance(value, dict) else None
        got = f"only the path {path!r} of a file outside; embed the images in the file" if path else "nothing"
        raise ReadError("no-image", f"expected the image's bytes, got {got}")
    if len(data) > MAX_MEMBER:
        raise ReadError("too-large", f"expected at most {MAX_MEMBER} bytes, got {len(data)}")
    return bytes(data)


def _label(value: object, column: str) -> int | str:
    label = checked_label(value, f"column {column}")
    if label is None:
        raise ReadError("no-label", f"expected a label in column {column}, got none")
    return label


def _batches(file: Any, columns: list[str]) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa

    try:
        yield from file.iter_batches(batch_size=ROWS_PER_BATCH, columns=columns, use_threads=False)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise ReadError("corrupt", f"the parquet file is damaged: {error}") from error


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
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError as error:
        raise SourceError(f"{path}: parquet needs pyarrow; pip install vbdguard[parquet]") from error
    with open_binary(path) if content is None else io.BytesIO(content) as stream:
        try:
            file = parquet.ParquetFile(stream, page_checksum_verification=True)
        except (pa.ArrowException, OSError) as error:
            raise ReadError("corrupt", f"expected a whole parquet file: {error}") from error
        yield file
