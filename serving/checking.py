"""The request against the signature: every fault names the field, what was expected and what came."""

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from driftwheel.contracts import InputSpec, Signature
from driftwheel.errors import InvalidRequestError, TooLargeError
from serving.codec import Column, as_array


def check_input_names(signature: Signature, names: Collection[str]) -> None:
    """Refuse missing, unknown and repeated inputs."""
    expected = [spec.name for spec in signature.inputs]
    if missing := [name for name in expected if name not in names]:
        raise InvalidRequestError(f"input {missing[0]!r} is missing; the model takes {', '.join(expected)}")
    if unknown := [name for name in names if name not in expected]:
        raise InvalidRequestError(f"input {unknown[0]!r} is unknown; the model takes {', '.join(expected)}")
    if len(names) != len(expected):
        raise InvalidRequestError(f"an input came twice; the model takes {', '.join(expected)}, each once")


def check_output_names(signature: Signature, names: Collection[str]) -> None:
    """Refuse a request for outputs that the model does not give."""
    given = [spec.name for spec in signature.outputs]
    if unknown := [name for name in names if name not in given]:
        raise InvalidRequestError(f"output {unknown[0]!r} is unknown; the model gives {', '.join(given)}")


def check_datatype(spec: InputSpec, datatype: str) -> None:
    """Refuse a tensor of another type than the signature's."""
    if datatype != spec.datatype:
        raise InvalidRequestError(f"input {spec.name!r} must have datatype {spec.datatype}, got {datatype or 'none'}")


def check_shape(spec: InputSpec, shape: Sequence[int], *, max_rows: int) -> int:
    """The rows of a tensor of shape ``[rows]``.

    Raises:
        InvalidRequestError: Another rank, or no rows.
        TooLargeError: More than ``max_rows`` rows.
    """
    if len(shape) != 1:
        raise InvalidRequestError(f"input {spec.name!r} must have shape [rows], got {list(shape)}")
    rows = shape[0]
    if rows < 1:
        raise InvalidRequestError(f"input {spec.name!r} must have at least one row, got shape {list(shape)}")
    if rows > max_rows:
        raise TooLargeError(f"input {spec.name!r} has {rows} rows; one request may have at most {max_rows}")
    return rows


def check_same_rows(rows: Mapping[str, int]) -> int:
    """The rows that all inputs share.

    Raises:
        InvalidRequestError: They differ.
    """
    if len(set(rows.values())) != 1:
        listed = ", ".join(f"{name} has {count}" for name, count in rows.items())
        raise InvalidRequestError(f"all inputs must have the same number of rows: {listed}")
    return next(iter(rows.values()))


def check_finite(spec: InputSpec, column: Column) -> None:
    """Refuse infinite numbers; NaN means missing."""
    if spec.role != "number":
        return
    values = as_array(spec, column)
    if np.isinf(values).any():
        row = int(np.flatnonzero(np.isinf(values))[0])
        raise InvalidRequestError(
            f"input {spec.name!r} must be finite (NaN where missing), got {values[row]} in row {row}"
        )
