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
from serving.codec import Columns, joined

Outputs = dict[str, NDArray[Any]]


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
            The outputs ``[rows]`` of each; NotFiniteError in place of answers that are not numbers.

        Raises:
            ModelFaultError: The runtime failed.
        """
        tensors = {
            spec.name: joined(spec, [columns[spec.name] for columns, _ in requests]) for spec in self._signature.inputs
        }
        outputs = self._backend.run(encode(self._signature, self._vocabularies, tensors))
        finite = all(_finite(values) for values in outputs.values())
        if len(requests) == 1 and finite:
            return [outputs]
        answers: list[Outputs | RequestError] = []
        start = 0
        for _, rows in requests:
            end = start + rows
            answer = {name: values[start:end] for name, values in outputs.items()}
            answers.append(answer if finite else self._checked(answer))
            start = end
        return answers

    def _checked(self, answer: Outputs) -> Outputs | RequestError:
        for name, values in answer.items():
            if not _finite(values):
                return NotFiniteError(f"{self._label} answered {name!r} with something that is not a number")
        return answer


def _finite(values: NDArray[Any]) -> bool:
    return bool(np.isfinite(values).all())
