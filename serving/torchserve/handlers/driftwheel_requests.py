"""What a request's fields mean, checked: columns as bytes, a graph's own inputs as bytes, or rows as JSON. ::

{"user_id": b"...", "item_id": b"..."}          raw columns: little-endian int64 or float32; text as a JSON list of
                                                strings, or each as 4 bytes of length and its UTF-8
{"user_index": b"...", "item_index": b"..."}    what the graph takes, row by row: indices int64, numbers float32
{"body": b'[{"user_id": 15, ...}, ...]'}        JSON, under the name "data" or "body"
"""

import json
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
from driftwheel_archive import Archive, Column, Input
from numpy.typing import NDArray

JSON_FIELDS = ("data", "body")
"""What TorchServe's own clients and default handlers call the one input."""

Form = Literal["raw", "list", "envelope"]

_NO_ID = int(np.iinfo(np.int64).min)
"""A whole number has no missing value of its own; this one is in no vocabulary."""
_LARGEST_FP32 = float(np.finfo(np.float32).max)
_LENGTH = struct.Struct("<I")
_TYPES: dict[str, Any] = {"INT64": np.dtype("<i8"), "FP32": np.dtype("<f4"), "BYTES": np.dtype(object)}
_EXPECTED = {
    "INT64": "whole numbers of 64 bits",
    "FP32": "numbers of 32 bits (null where missing)",
    "BYTES": "text (null where missing)",
}


class RefusedError(Exception):
    """A request that cannot be answered; the others of its batch are.

    Args:
        code: As in HTTP: 400 where the request is at fault, 500 where the model is.
    """

    def __init__(self, message: str, *, code: int = 400) -> None:
        # What a client wrote may hold half a surrogate pair, which TorchServe cannot encode: its worker would die.
        self.message = message.encode("utf-8", "backslashreplace").decode()
        super().__init__(self.message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Scoring:
    """Rows to score, and the form that their answer takes."""

    columns: Mapping[str, Column]
    """``[rows]`` by input; if ``encoded``, ``[rows]`` or ``[rows, columns]`` by graph input."""
    rows: int
    encoded: bool
    form: Form


def read_json(value: Any) -> Any:
    """A field's JSON; TorchServe has parsed it already where the client said that it was JSON.

    Raises:
        RefusedError: It is none.
    """
    if not isinstance(value, (bytes, bytearray, str)):
        return value
    try:
        return json.loads(value, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise RefusedError(f"the body cannot be used: JSON is malformed: {error}") from None


def shown(value: object) -> str:
    """A value for a message, cut to a length that logs bear."""
    try:
        text = repr(value)
    except RecursionError:
        text = "something nested deeply"
    return text if len(text) <= 40 else text[:37] + "..."


def read_columns(archive: Archive, fields: Mapping[str, Any]) -> Scoring:
    """Rows that came as columns.

    Raises:
        RefusedError: They do not fit the signature; the message names the input, what was expected and what came.
    """
    if set(fields) == {spec.name for spec in archive.inputs}:
        columns = {spec.name: _column(spec, fields[spec.name]) for spec in archive.inputs}
        return Scoring(columns, _shared_rows(columns), encoded=False, form="raw")
    if set(fields) == set(archive.graph_inputs):
        columns = {name: _graph_input(archive, name, value) for name, value in fields.items()}
        return Scoring(columns, _shared_rows(columns), encoded=True, form="raw")
    names = [spec.name for spec in archive.inputs]
    if missing := [name for name in names if name not in fields and len(fields) > 1]:
        raise RefusedError(f"input {missing[0]!r} is missing; the model takes {', '.join(names)}")
    came = ", ".join(sorted(fields))[:80] or "none"
    raise RefusedError(f"a request has the raw inputs {', '.join(names)}, or JSON (application/json); got {came}")


def read_rows(archive: Archive, body: Any) -> Scoring:
    """Rows that came as JSON objects: one, a list of them, or ``{"instances": [...]}``.

    Raises:
        RefusedError: They do not fit the signature; the message names the row.
    """
    if isinstance(body, dict) and "instances" in body:
        if len(cast("dict[str, Any]", body)) > 1:
            raise RefusedError("the body must have nothing beside 'instances'")
        rows, form, called = cast("Any", body["instances"]), "envelope", "instances"
    else:
        rows, form, called = [body] if isinstance(body, dict) else body, "list", "the body"
    if not isinstance(rows, list):
        raise RefusedError(f"{called} must be a list of objects, got {shown(rows)}")
    objects = cast("list[Any]", rows)
    if not objects:
        raise RefusedError("instances must hold at least one row")
    names = [spec.name for spec in archive.inputs]
    for position, row in enumerate(objects):
        if not isinstance(row, dict):
            raise RefusedError(f"{called}[{position}] must be an object of inputs, got {shown(row)}")
        if unknown := sorted(cast("dict[str, Any]", row).keys() - set(names)):
            raise RefusedError(
                f"instances[{position}] has the unknown input {unknown[0][:80]!r}; the model takes {', '.join(names)}"
            )
    columns = {spec.name: _from_list(spec, _values(spec, objects)) for spec in archive.inputs}
    return Scoring(columns, len(objects), encoded=False, form=cast("Form", form))


def _values(spec: Input, rows: Sequence[Mapping[str, Any]]) -> list[Any]:
    """An input's values. A category or number that is null or absent is missing; an id must be there."""
    values = [row.get(spec.name) for row in rows]
    if spec.role == "id" and None in values:
        raise RefusedError(f"instances[{values.index(None)}] has no {spec.name!r}")
    return [_NO_ID if value is None else value for value in values] if spec.datatype == "INT64" else values


def _column(spec: Input, value: Any) -> Column:
    if spec.datatype == "BYTES" and isinstance(value, (bytes, bytearray)) and not _is_json_list(value):
        return _text(spec, value)
    if isinstance(value, (bytes, bytearray)) and spec.datatype != "BYTES":
        return _checked(spec, _numbers(spec.name, value, _TYPES[spec.datatype]))
    values = read_json(value)
    if not isinstance(values, list):
        raise RefusedError(
            f"input {spec.name!r} must be a raw column of {spec.datatype} or a list, got {shown(values)}"
        )
    return _from_list(spec, cast("list[Any]", values))


def _is_json_list(raw: bytes | bytearray) -> bool:
    """Whether a text column is JSON. Read as the length of a first element, a list's beginning would be 150 MB or more."""
    return raw[:1] == b"[" and (len(raw) < _LENGTH.size or raw[3] != 0)


def _numbers(name: str, raw: bytes | bytearray, dtype: Any) -> Column:
    if len(raw) % dtype.itemsize:
        raise RefusedError(
            f"input {name!r} must be raw little-endian {dtype.name}, {dtype.itemsize} bytes a value; got {len(raw)} bytes"
        )
    return np.frombuffer(raw, dtype=dtype)


def _text(spec: Input, raw: bytes | bytearray) -> NDArray[np.object_]:
    """Each element is a 4-byte little-endian length and that many bytes of UTF-8."""
    values: list[str] = []
    position = 0
    while position < len(raw):
        if position + _LENGTH.size > len(raw):
            raise RefusedError(f"input {spec.name!r} ends within the length of row {len(values)}")
        (length,) = _LENGTH.unpack_from(raw, position)
        position += _LENGTH.size
        if length > len(raw) - position:
            raise RefusedError(
                f"input {spec.name!r}: row {len(values)} claims {length} bytes, {len(raw) - position} are left"
            )
        values.append(raw[position : position + length].decode("utf-8", "replace"))
        position += length
    return np.array(values, dtype=object)


def _from_list(spec: Input, values: list[Any]) -> Column:
    check = _CHECKS[spec.datatype]
    for row, value in enumerate(values):
        if not check(value):
            raise RefusedError(
                f"input {spec.name!r} must hold {_EXPECTED[spec.datatype]}, got {shown(value)} in row {row}"
            )
    if spec.datatype == "FP32":
        return _checked(spec, np.array([np.nan if value is None else value for value in values], dtype=np.float32))
    return np.array(values, dtype=_TYPES[spec.datatype])


def _is_integer(value: object) -> bool:
    return type(value) is int and -(2**63) <= value < 2**63


def _is_number(value: object) -> bool:
    return value is None or (type(value) in (int, float) and not abs(cast("float", value)) > _LARGEST_FP32)


def _is_text(value: object) -> bool:
    return value is None or type(value) is str


_CHECKS: dict[str, Callable[[object], bool]] = {"INT64": _is_integer, "FP32": _is_number, "BYTES": _is_text}


def _checked(spec: Input, values: Column) -> Column:
    """Refuse infinite numbers; NaN means missing."""
    if spec.role == "number" and np.isinf(values).any():
        row = int(np.flatnonzero(np.isinf(values))[0])
        raise RefusedError(
            f"input {spec.name!r} must be finite (NaN where missing), got {values.flat[row]} in row {row}"
        )
    return values


def _graph_input(archive: Archive, name: str, raw: Any) -> Column:
    """Encoded rows, as the graph takes them."""
    specs = archive.graph_inputs[name]
    if not isinstance(raw, (bytes, bytearray)):
        raise RefusedError(f"graph input {name!r} must be raw bytes, got {shown(raw)}")
    numeric = specs[0].role == "number"
    values = _numbers(name, raw, _TYPES["FP32" if numeric else "INT64"])
    if len(values) % len(specs):
        raise RefusedError(f"graph input {name!r} has {len(specs)} columns, which {len(values)} values do not fill")
    if specs[0].column is not None:
        values = values.reshape(-1, len(specs))
    if numeric:
        return values
    for position, spec in enumerate(specs):
        indices = values if values.ndim == 1 else values[:, position]
        size = len(archive.vocabularies[spec.name].entries) + 1
        if len(indices) and not (indices.min() >= 0 and indices.max() < size):
            raise RefusedError(f"graph input {name!r} has an index of {spec.name!r} outside 0..{size - 1}")
    return values


def _shared_rows(columns: Mapping[str, Column]) -> int:
    rows = {name: len(column) for name, column in columns.items()}
    if len(set(rows.values())) != 1:
        listed = ", ".join(f"{name} has {count}" for name, count in rows.items())
        raise RefusedError(f"all inputs must have the same number of rows: {listed}")
    if not (count := next(iter(rows.values()))):
        raise RefusedError("a request must have at least one row")
    return count


def _no_constant(name: str) -> None:
    raise RefusedError(f"the body cannot be used: {name} is no JSON")
