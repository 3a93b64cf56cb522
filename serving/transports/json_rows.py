"""Rows of JSON objects to columns: the form in which people write requests by hand."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from driftwheel.contracts import InputSpec, Signature
from driftwheel.errors import InvalidRequestError, TooLargeError
from serving.checking import check_finite
from serving.codec import Columns, from_list

_NO_ID = int(np.iinfo(np.int64).min)
"""A whole number has no missing value of its own; this one is in no vocabulary."""


def columns_of(
    rows: Sequence[Mapping[str, Any]], signature: Signature, max_rows: int, *, called: str
) -> tuple[Columns, int]:
    """Columns ``[rows]`` by input name. A category or number that is null or absent is missing; an id must be there.

    Args:
        called: What the request calls its list of rows.

    Raises:
        InvalidRequestError: There are none, or an input is unknown, absent or of the wrong type; the message names the row.
        TooLargeError: There are more than ``max_rows``.
    """
    if not rows:
        raise InvalidRequestError(f"{called} must hold at least one row")
    if len(rows) > max_rows:
        raise TooLargeError(f"{called} has {len(rows)} rows; one request may have at most {max_rows}")
    names = [spec.name for spec in signature.inputs]
    known = frozenset(names)
    for position, row in enumerate(rows):
        if unknown := sorted(row.keys() - known):
            raise InvalidRequestError(
                f"{called}[{position}] has the unknown input {unknown[0][:80]!r}; the model takes {', '.join(names)}"
            )
    columns = {spec.name: from_list(spec, len(rows), _values(spec, rows, called)) for spec in signature.inputs}
    for spec in signature.inputs:
        check_finite(spec, columns[spec.name])
    return columns, len(rows)


def _values(spec: InputSpec, rows: Sequence[Mapping[str, Any]], called: str) -> list[Any]:
    values = [row.get(spec.name) for row in rows]
    if spec.role == "id" and None in values:
        raise InvalidRequestError(f"{called}[{values.index(None)}] has no {spec.name!r}")
    if spec.datatype == "INT64":
        return [_NO_ID if value is None else value for value in values]
    return values
