"""Frozen dataclasses as JSON, and rebuilt from it with every value checked against its annotation.

Reports and cache entries may have been edited, cut or made by another tool, so nothing in them is
taken on trust. Handles what reports are made of: dataclasses, `tuple[X, ...]`, `tuple[X, Y]`,
`Mapping[str, X]`, `Literal`, unions with None, `Any` and the JSON scalars. A field with the metadata
`{"json": False}` is not part of the JSON; one with a default came later and may be missing.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

T = TypeVar("T")
Reader = Callable[[Any], Any]


class MismatchError(Exception):
    """A value is not what its annotation says; `path` grows from the inside out while the error rises."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem
        self.path = ""

    def __str__(self) -> str:
        return f"{self.path.lstrip('.') or 'top level'}: {self.problem}"

    def under(self, step: str) -> MismatchError:
        """Return itself, located one step further from the top."""
        self.path = step + self.path
        return self


def rebuild(kind: type[T], value: Any) -> T:
    """Return an instance of the dataclass `kind` made from parsed JSON.

    Raises:
        MismatchError: if a field is missing, surplus, of another type or refused by the dataclass; says where.
    """
    result: T = _reader(cast(Any, kind))(value)
    return result


def plain(value: Any) -> Any:
    """Return what `rebuild` takes: dataclasses as dicts, tuples as lists.

    `dataclasses.asdict` takes three times as long, since it copies every leaf.
    """
    if type(value) in _SCALARS:
        return value
    if isinstance(value, Mapping):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [plain(item) for item in value]
    if is_dataclass(value):
        return {name: plain(getattr(value, name)) for name in _shown(cast(Any, type(value)))}
    return value


_SCALARS = frozenset({str, int, float, bool, types.NoneType})


@cache
def _shown(kind: Any) -> tuple[str, ...]:
    """Return the names of a dataclass's fields that are part of the JSON."""
    return tuple(f.name for f in fields(kind) if f.metadata.get("json", True))


@cache
def _reader(kind: Any) -> Reader:
    """Return the function that checks and converts a value to `kind`; made once per type, since lists are long."""
    if kind is Any:
        return lambda value: value
    if is_dataclass(kind):
        return _dataclass_reader(kind)
    origin, args = get_origin(kind), get_args(kind)
    if origin is Literal:
        return _literal_reader(args)
    if origin in (Union, types.UnionType):
        return _optional_reader(args)
    if origin is tuple:
        return _list_reader(args[0]) if args[-1] is Ellipsis else _fixed_list_reader(args)
    if origin is Mapping:
        return _mapping_reader(args[1])
    return _scalar_reader(kind)


def _dataclass_reader(kind: Any) -> Reader:
    hints = get_type_hints(kind)
    shown = [f for f in fields(kind) if f.metadata.get("json", True)]
    readers = {f.name: _reader(hints[f.name]) for f in shown}
    required = {f.name for f in shown if f.default is MISSING and f.default_factory is MISSING}

    def read(value: Any) -> Any:
        _expect(dict, value)
        if not required <= value.keys() <= readers.keys():
            raise MismatchError(_difference(value.keys(), required, readers.keys()))
        values = {}
        try:  # not `_located`: a report may hold a hundred thousand samples
            for name, item in value.items():
                values[name] = readers[name](item)
        except MismatchError as error:
            raise error.under(f".{name}") from error.__cause__
        try:
            return kind(**values)
        except ValueError as error:
            raise MismatchError(str(error)) from error

    return read


def _difference(got: Any, required: Any, known: Any) -> str:
    missing, surplus = sorted(required - got), sorted(got - known)
    parts = [f"missing {', '.join(missing)}"] if missing else []
    return "; ".join([*parts, f"unknown {', '.join(map(repr, surplus))}"] if surplus else parts)


def _literal_reader(options: tuple[Any, ...]) -> Reader:
    def read(value: Any) -> Any:
        if value not in options:
            raise MismatchError(f"expected one of {', '.join(map(repr, options))}, got {_short(value)}")
        return value

    return read


def _optional_reader(options: tuple[Any, ...]) -> Reader:
    (kind,) = (option for option in options if option is not types.NoneType)
    inner = _reader(kind)
    return lambda value: None if value is None else inner(value)


def _list_reader(kind: Any) -> Reader:
    inner = _reader(kind)

    def read(value: Any) -> tuple[Any, ...]:
        _expect(list, value)
        items: list[Any] = []
        try:
            for item in value:
                items.append(inner(item))
        except MismatchError as error:
            raise error.under(f"[{len(items)}]") from error.__cause__
        return tuple(items)

    return read


def _fixed_list_reader(kinds: tuple[Any, ...]) -> Reader:
    inner = [_reader(kind) for kind in kinds]

    def read(value: Any) -> tuple[Any, ...]:
        _expect(list, value)
        if len(value) != len(inner):
            raise MismatchError(f"expected {len(inner)} values, got {len(value)}")
        return tuple(
            _located(reader, item, f"[{i}]") for i, (reader, item) in enumerate(zip(inner, value, strict=True))
        )

    return read


def _mapping_reader(kind: Any) -> Reader:
    inner = _reader(kind)

    def read(value: Any) -> dict[str, Any]:
        _expect(dict, value)
        return {name: _located(inner, item, f".{name}") for name, item in value.items()}

    return read


def _scalar_reader(kind: Any) -> Reader:
    def read(value: Any) -> Any:
        if type(value) is kind:
            return value
        if kind is float and type(value) is int and abs(value) <= 2**53:
            return float(value)
        _expect(kind, value)
        return value

    return read


def _located(reader: Reader, value: Any, step: str) -> Any:
    try:
        return reader(value)
    except MismatchError as error:
        raise error.under(step) from error.__cause__


_WORDS = {
    dict: "an object",
    list: "a list",
    str: "a string",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
}


def _expect(kind: type, value: Any) -> None:
    # `type() is` and not isinstance: JSON true must not pass for the number 1
    if type(value) is not kind:
        raise MismatchError(f"expected {_WORDS[kind]}, got {_short(value)}")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
