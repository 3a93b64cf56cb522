"""Tensors on the wire: raw little-endian bytes, typed lists and JSON, to arrays and back."""

import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from driftwheel.contracts import Datatype, InputSpec
from driftwheel.errors import InvalidRequestError

Raw = bytes | memoryview
"""Bytes; a view (of bytes, one dimension) where they are many, and lie within something larger that was not copied apart."""

Column = NDArray[Any] | Raw
"""One input's or output's values ``[rows]``; numbers may be their little-endian bytes, just as they came from the wire."""

Columns = Mapping[str, Column]

NUMPY_TYPES: dict[Datatype, np.dtype[Any]] = {
    "INT64": np.dtype("<i8"),
    "FP32": np.dtype("<f4"),
    "BYTES": np.dtype(object),
}

_LENGTH = struct.Struct("<I")
_INT64 = struct.Struct("<q")

_LARGEST_FP32 = float(np.finfo(np.float32).max)


def from_raw(spec: InputSpec, rows: int, raw: Raw) -> Column:
    """The values ``[rows]`` of a raw tensor: text as an array, numbers as the bytes that they are.

    Raises:
        InvalidRequestError: The bytes do not hold exactly ``rows`` values.
    """
    if spec.datatype == "BYTES":
        return _bytes_from_raw(spec, rows, raw)
    dtype = NUMPY_TYPES[spec.datatype]
    if len(raw) != rows * dtype.itemsize:
        raise InvalidRequestError(
            f"input {spec.name!r} of shape [{rows}] and datatype {spec.datatype} must have {rows * dtype.itemsize} bytes "
            f"of raw content, got {len(raw)}"
        )
    return raw


def _bytes_from_raw(spec: InputSpec, rows: int, raw: Raw) -> NDArray[np.object_]:
    """Each element is a 4-byte little-endian length and that many bytes."""
    values = np.empty(rows, dtype=object)
    position = 0
    for row in range(rows):
        if position + 4 > len(raw):
            raise InvalidRequestError(f"input {spec.name!r} ends before row {row} of {rows}")
        (length,) = _LENGTH.unpack_from(raw, position)
        position += 4
        if position + length > len(raw):
            raise InvalidRequestError(
                f"input {spec.name!r}: row {row} claims {length} bytes, {len(raw) - position} are left"
            )
        values[row] = bytes(raw[position : position + length])
        position += length
    if position != len(raw):
        raise InvalidRequestError(f"input {spec.name!r} has {len(raw) - position} bytes after its {rows} rows")
    return values


def from_list(spec: InputSpec, rows: int, values: Sequence[Any]) -> NDArray[Any]:
    """An array ``[rows]`` from typed contents or a JSON list; None is a missing number or text.

    Raises:
        InvalidRequestError: The count or the type of a value is wrong; the message names the row.
    """
    if len(values) != rows:
        raise InvalidRequestError(f"input {spec.name!r} of shape [{rows}] must have {rows} values, got {len(values)}")
    if (plain := _plain(spec, values)) is not None:
        return plain
    check = {"INT64": _is_integer, "FP32": _is_number, "BYTES": _is_text}[spec.datatype]
    for row, value in enumerate(values):
        if not check(value):
            raise InvalidRequestError(
                f"input {spec.name!r} must hold {_EXPECTED[spec.datatype]}, got {_shown(value)} in row {row}"
            )
    if spec.datatype == "FP32":
        return np.array([np.nan if value is None else value for value in values], dtype=np.float32)
    return np.array(values, dtype=NUMPY_TYPES[spec.datatype])


def _plain(spec: InputSpec, values: Sequence[Any]) -> NDArray[Any] | None:
    """What lists hold as a rule, checked all at once; None where each value has to be looked at."""
    if not set(map(type, values)) <= _PLAIN_KINDS[spec.datatype]:
        return None
    if spec.datatype == "BYTES":
        return np.array(values, dtype=object)
    try:
        numbers = np.array(values, dtype=np.int64 if spec.datatype == "INT64" else np.float64)
    except OverflowError:
        return None
    if spec.datatype == "INT64":
        return numbers
    return numbers.astype(np.float32) if (np.abs(numbers) <= _LARGEST_FP32).all() else None


_PLAIN_KINDS: dict[Datatype, set[type]] = {"INT64": {int}, "FP32": {int, float}, "BYTES": {str, bytes}}

_EXPECTED: dict[Datatype, str] = {
    "INT64": "whole numbers of 64 bits",
    "FP32": "numbers of 32 bits (null where missing)",
    "BYTES": "text (null where missing)",
}


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63


def _is_number(value: object) -> bool:
    if value is None or isinstance(value, bool):
        return value is None
    return isinstance(value, (int, float)) and -_LARGEST_FP32 <= value <= _LARGEST_FP32


def _is_text(value: object) -> bool:
    return value is None or isinstance(value, (str, bytes))


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."


def text(values: NDArray[Any]) -> list[str | None]:
    """BYTES elements as text, for logs and vocabularies; what is not UTF-8 gets replacement characters."""
    return [value.decode("utf-8", "replace") if isinstance(value, bytes) else value for value in values]


def key_of(value: Any) -> bytes:
    """A routing key's bytes: the same for ``15`` and ``"15"``, over every protocol."""
    return value if isinstance(value, bytes) else str(value).encode()


def first_key(column: Column) -> bytes:
    """The routing key in the first row of an input; raw bytes are those of an int64."""
    return key_of(column[0]) if isinstance(column, np.ndarray) else str(_INT64.unpack_from(column)[0]).encode()


def as_array(spec: InputSpec, column: Column) -> NDArray[Any]:
    """The values ``[rows]``, without a copy."""
    return column if isinstance(column, np.ndarray) else np.frombuffer(column, dtype=NUMPY_TYPES[spec.datatype])


def joined(spec: InputSpec, columns: Sequence[Column]) -> NDArray[Any]:
    """The values of several requests, one after the other."""
    if len(columns) == 1:
        return as_array(spec, columns[0])
    if spec.datatype == "BYTES":
        return np.concatenate([as_array(spec, column) for column in columns])
    dtype = NUMPY_TYPES[spec.datatype]
    parts = [c.astype(dtype, copy=False).tobytes() if isinstance(c, np.ndarray) else c for c in columns]
    return np.frombuffer(b"".join(parts), dtype=dtype)
