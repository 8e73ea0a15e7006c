"""Labels: what may be one, and where it stands among the fields of a WebDataset sample.

Without a label key it is `.cls`, else `label`, `cls` or `class` of `.json`. Where several of these give numbers that
differ, readers would not agree on the class, and the sample is refused: a label key says which one counts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Container
from typing import Any

from vbdguard.errors import ReadError

MAX_LABEL_DATA = 1 << 20
"""Bytes of a label's member: JSON takes many times its size in memory."""
MAX_CLASS_NAME = 1000
JSON_LABEL_KEYS = ("label", "cls", "class")
"""Where a label is looked for in `.json` when no label key is given; the first one that is there counts."""

_DIGITS = re.compile(rb"\s*([0-9]{1,18})\s*")

Content = Callable[[str], bytes]
"""Gives the bytes of a field by its name."""


def checked_label(value: object, where: str) -> int | str | None:
    """Return a label as it may stand in a sample: a class number of 0 or more, or a class name; None stays None.

    Raises:
        ReadError: "bad-label" for anything else. -1 is how data sets mark a sample without a label.
    """
    if value is None or (isinstance(value, str) and 0 < len(value) <= MAX_CLASS_NAME):
        return value
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63:
        return value
    raise ReadError("bad-label", f"expected a class number of 0 or more or a class name in {where}, got {value!r:.80}")


def label_field(fields: Container[str], label_key: str | None) -> str:
    """Return the field that the label is read from, among the fields of a sample."""
    wanted = "cls" if label_key is None else label_key.lower()
    return wanted if wanted in fields and wanted != "json" else "json"


def has_one_place(fields: Container[str], label_key: str | None) -> bool:
    """Return whether the label stands in a field of its own, and nowhere else among the fields of a sample."""
    return label_field(fields, label_key) != "json" and (label_key is not None or "json" not in fields)


def read_label(fields: Collection[str], content: Content, label_key: str | None) -> int | str | None:
    """Return the label that the fields of one key hold, None where they hold none.

    Args:
        fields: lower-cased names of the members, such as "jpg" and "cls".
        content: gives the bytes of one of them.
        label_key: a field or a key of `.json`; None looks in the usual places.

    Raises:
        ReadError: "bad-label" or "ambiguous-label", and whatever `content` raises.
    """
    name = label_field(fields, label_key)
    if name == "json":
        return _json_label(content(name), label_key) if name in fields else None
    label = _class_name(content(name)) if name == "txt" else _class_number(content(name), name)
    if not has_one_place(fields, label_key):
        _require_one_number([label, *_stated(_body_beside(content), label_key)])
    return label


def rewritten_label(
    fields: Collection[str], content: Content, label_key: str | None, new: int | str
) -> dict[str, bytes]:
    """Return the fields that give a sample another label, with their new content.

    Args:
        fields: lower-cased names of the members; `read_label` can read them.
        content: gives the bytes of one of them.
        label_key: as for `read_label`.
        new: the label that it will read.
    """
    name = label_field(fields, label_key)
    found = {} if name == "json" else {name: str(new).encode()}
    if has_one_place(fields, label_key):
        return found
    body = json.loads(content("json")) if name == "json" else _body_beside(content)
    old = read_label(fields, content, label_key)
    same = [key for key in _json_keys(label_key) if key in body and _is_same(body[key], old)]
    return found | ({"json": json.dumps(body | dict.fromkeys(same, new)).encode()} if same else {})


def _is_same(value: object, label: int | str | None) -> bool:
    return type(value) is type(label) and value == label


def _json_keys(label_key: str | None) -> tuple[str, ...]:
    return JSON_LABEL_KEYS if label_key is None else (label_key,)


def _json_label(data: bytes, label_key: str | None) -> int | str | None:
    try:
        body = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ReadError("bad-label", f"expected JSON in .json: {error}") from error
    found = _stated(body, label_key)
    _require_one_number(found)
    return checked_label(found[0], ".json") if found else None


def _body_beside(content: Content) -> dict[str, Any]:
    """Return the object in a `.json` that need not hold a label; nothing where there is none."""
    try:
        body = json.loads(content("json"))
    except (ReadError, ValueError, RecursionError):
        return {}
    return body if isinstance(body, dict) else {}


def _stated(body: object, label_key: str | None) -> list[object]:
    return [body[key] for key in _json_keys(label_key) if key in body] if isinstance(body, dict) else []


def _require_one_number(labels: list[object]) -> None:
    numbers = sorted({label for label in labels if type(label) is int})
    if len(numbers) > 1:
        raise ReadError(
            "ambiguous-label",
            f"expected one class number in .cls and .json, got {', '.join(map(str, numbers))}; say with --label-key "
            "which one you train on",
        )


def _class_number(data: bytes, suffix: str) -> int:
    digits = _DIGITS.fullmatch(data)
    if digits is None:
        raise ReadError("bad-label", f"expected a class number of 0 or more in .{suffix}, got {data[:80]!r}")
    return int(digits[1])


def _class_name(data: bytes) -> str:
    try:
        name = data.decode("utf-8").strip()
    except UnicodeDecodeError as error:
        raise ReadError("bad-label", f"expected a class name in UTF-8 in .txt: {error}") from error
    if not 0 < len(name) <= MAX_CLASS_NAME:
        raise ReadError("bad-label", f"expected a class name of 1 to {MAX_CLASS_NAME} characters, got {len(name)}")
    return name
