"""The one function between the public signature and the graph, used alike by training, export and serving."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from driftwheel.contracts import InputSpec, Signature
from driftwheel.vocabulary import Vocabulary

Tensors = Mapping[str, NDArray[Any]]


def encode(signature: Signature, vocabularies: Mapping[str, Vocabulary], tensors: Tensors) -> dict[str, NDArray[Any]]:
    """Feed a graph from public tensors.

    Args:
        tensors: One array ``[rows]`` for each input of the signature: int64, float32, or object (str or bytes, None
            where missing).

    Returns:
        One array for each graph input: int64 indices or float32 numbers, ``[rows]`` or ``[rows, columns]``.
    """
    widths = graph_widths(signature)
    rows = len(next(iter(tensors.values())))
    feed: dict[str, NDArray[Any]] = {}
    for spec in signature.inputs:
        column = _encode_column(spec, vocabularies, tensors[spec.name])
        if spec.column is None:
            feed[spec.graph_input] = column
            continue
        if spec.graph_input not in feed:
            feed[spec.graph_input] = np.empty((rows, widths[spec.graph_input]), dtype=column.dtype)
        feed[spec.graph_input][:, spec.column] = column
    return feed


def graph_widths(signature: Signature) -> dict[str, int]:
    """How many columns each ``[rows, columns]`` graph input has."""
    widths: dict[str, int] = {}
    for spec in signature.inputs:
        if spec.column is not None:
            widths[spec.graph_input] = max(widths.get(spec.graph_input, 0), spec.column + 1)
    return widths


def _encode_column(spec: InputSpec, vocabularies: Mapping[str, Vocabulary], values: NDArray[Any]) -> NDArray[Any]:
    if spec.role == "number":
        return np.asarray(values, dtype=np.float32)
    return vocabularies[spec.name].encode(values)
