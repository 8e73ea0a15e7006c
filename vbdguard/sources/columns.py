"""Samples in the rows of a table, as parquet and arrow files hold them: which columns, and what a row says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from vbdguard.errors import ReadError
from vbdguard.sources.base import RawSample, Unreadable
from vbdguard.sources.labels import checked_label
from vbdguard.sources.tar_members import MAX_MEMBER

if TYPE_CHECKING:
    import pyarrow as pa

LABEL_COLUMNS = ("label", "labels", "cls", "class")
IMAGE_COLUMNS = ("image", "img", "jpg", "png")
KEY_COLUMN = "__key__"


def sample_columns(schema: pa.Schema, label_key: str | None) -> tuple[str, str]:
    """Return the names of the image and the label column.

    Raises:
        ReadError: "no-image-column", "no-label-column", "ambiguous-column" if two bear one name, or "corrupt".
    """
    try:
        return _columns(schema, label_key)
    except (UnicodeDecodeError, TypeError, ValueError) as error:  # names are whatever bytes the file holds
        raise ReadError("corrupt", f"expected columns with names in UTF-8: {error}") from error


def _columns(schema: pa.Schema, label_key: str | None) -> tuple[str, str]:
    found = [name for name in schema.names if schema.names.count(name) == 1 and _holds_images(schema.field(name).type)]
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
    if schema.names.count(labels[0]) > 1:
        raise ReadError("ambiguous-column", f"expected one column {labels[0]}, got several; rename the others")
    return usual[0], labels[0]


def class_names(schema: pa.Schema, label_key: str | None) -> dict[int, str] | None:
    """Return the names of the class numbers that a schema of Hugging Face states, None where it states none."""
    try:
        features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
        names = features[sample_columns(schema, label_key)[1]]["names"]
    except (KeyError, TypeError, ValueError, RecursionError, ReadError):
        return None
    return {number: str(name) for number, name in enumerate(names)} if isinstance(names, list) else None


def batch_samples(
    batch: pa.RecordBatch, image: str, label: str, *, shard: str, first_row: int
) -> Iterator[RawSample | Unreadable]:
    """Yield the rows of a batch.

    Args:
        batch: with the columns `image` and `label`, and `KEY_COLUMN` where there is one.
        image: the image column's name.
        label: the label column's name.
        shard: what keys begin with.
        first_row: the number of the batch's first row in the file.

    Raises:
        ReadError: "corrupt".
    """
    try:
        images, labels = batch.column(image).to_pylist(), batch.column(label).to_pylist()
        keys = batch.column(KEY_COLUMN).to_pylist() if KEY_COLUMN in batch.schema.names else [None] * len(images)
    except (UnicodeDecodeError, ValueError, OverflowError) as error:  # text that is none, a date of no calendar
        raise ReadError("corrupt", f"expected values that can be read from row {first_row} on: {error}") from error
    for row, (one, value, given) in enumerate(zip(images, labels, keys, strict=True), first_row):
        key = f"{shard}/{row if given is None else given}"
        try:
            yield RawSample(key, _image_bytes(one), _label(value, label))
        except ReadError as error:
            yield Unreadable(key, error.reason, error.detail)


def _holds_images(kind: pa.DataType) -> bool:
    from pyarrow import types

    if types.is_struct(kind):
        return any(kind.field(number).name == "bytes" for number in range(kind.num_fields))
    return bool(types.is_binary(kind) or types.is_large_binary(kind))


def _image_bytes(value: Any) -> bytes:
    data = value.get("bytes") if isinstance(value, dict) else value
    if not data:
        path = value.get("path") if isinstance(value, dict) else None
        got = f"only the path {path!r:.200} of a file outside; embed the images in the file" if path else "nothing"
        raise ReadError("no-image", f"expected the image's bytes, got {got}")
    if not isinstance(data, bytes):
        raise ReadError("no-image", f"expected the image's bytes, got {type(data).__name__}")
    if len(data) > MAX_MEMBER:
        raise ReadError("too-large", f"expected at most {MAX_MEMBER} bytes, got {len(data)}")
    return data


def _label(value: object, column: str) -> int | str:
    label = checked_label(value, f"column {column}")
    if label is None:
        raise ReadError("no-label", f"expected a label in column {column}, got none")
    return label
