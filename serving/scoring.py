"""Many requests in one run of the graph."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from driftwheel.contracts import Signature
from driftwheel.errors import NotFiniteError, RequestError
from driftwheel.preprocessing import encode
from driftwheel.vocabulary import Vocabulary
from serving.backends.base import Backend
from serving.codec import Columns, Raw, joined

Outputs = dict[str, Raw]
"""One request's outputs by name: little-endian float32 ``[rows]``, as the wire and the log want them."""

_WORTH_A_VIEW = 1024
"""Rows of a request; the bytes of smaller ones are copied apart faster than a view of them is made."""


class Scorer:
    """What a version's batcher runs: joins the requests' columns, encodes them once, and cuts the answers apart.

    Args:
        label: The version, for people.
    """

    def __init__(
        self, backend: Backend, signature: Signature, vocabularies: Mapping[str, Vocabulary], *, label: str
    ) -> None:
        self._backend = backend
        self._signature = signature
        self._vocabularies = vocabularies
        self._label = label

    def __call__(self, requests: Sequence[tuple[Columns, int]]) -> list[Outputs | RequestError]:
        """Answer requests, each its columns and its number of rows.

        Returns:
            The outputs of each; NotFiniteError in place of answers that are not numbers.

        Raises:
            ModelFaultError: The runtime failed.
        """
        tensors = {
            spec.name: joined(spec, [columns[spec.name] for columns, _ in requests]) for spec in self._signature.inputs
        }
        outputs = self._backend.run(encode(self._signature, self._vocabularies, tensors))
        finite = all(_finite(values) for values in outputs.values())
        raw = {name: _raw(values, len(requests)) for name, values in outputs.items()}
        if len(requests) == 1 and finite:
            return [raw]
        answers: list[Outputs | RequestError] = []
        start = 0
        for _, rows in requests:
            end = start + rows
            cut: Outputs = {name: values[4 * start : 4 * end] for name, values in raw.items()}
            answers.append(cut if finite else self._checked(outputs, start, end) or cut)
            start = end
        return answers

    def _checked(self, outputs: Mapping[str, NDArray[Any]], start: int, end: int) -> RequestError | None:
        for name, values in outputs.items():
            if not _finite(values[start:end]):
                return NotFiniteError(f"{self._label} answered {name!r} with something that is not a number")
        return None


def _raw(values: NDArray[Any], requests: int) -> Raw:
    if len(values) < _WORTH_A_VIEW * requests:
        return values.astype("<f4", copy=False).tobytes()
    return np.ascontiguousarray(values, dtype="<f4").data.cast("B")


def _finite(values: NDArray[Any]) -> bool:
    return bool(np.isfinite(values).all())
