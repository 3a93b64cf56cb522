"""Answers of TorchServe as numbers, and the proof that a version must pass once it has been away."""

from dataclasses import dataclass

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from driftwheel.errors import ModelFaultError
from serving._proto import torchserve_inference_pb2 as pb
from serving.backends.torchserve_faults import ERROR_MARK, refusal

_ANSWER = np.dtype("<f4")

_TOLERANCE = 1e-4
"""As when a version is loaded here."""


def numbers_in(message: bytes, rows: int) -> NDArray[np.float32]:
    """The scores ``[rows]`` of a PredictionResponse.

    Raises:
        ModelFaultError: It holds something else.
    """
    try:
        answer = pb.PredictionResponse.FromString(message).prediction
    except DecodeError as error:
        raise ModelFaultError(f"the model failed: TorchServe's answer cannot be read: {error}") from None
    if answer.startswith(ERROR_MARK):
        raise ModelFaultError(f"the model failed: {refusal(answer)}")
    if len(answer) != rows * _ANSWER.itemsize:
        raise ModelFaultError(
            f"the model failed: TorchServe answered {rows} rows with {len(answer)} bytes, not {rows} float32"
        )
    return np.frombuffer(answer, _ANSWER)


@dataclass(frozen=True, slots=True, eq=False)
class Proof:
    """A request whose answer is known. What comes back under a version's number may be another archive."""

    message: bytes
    """A PredictionsRequest."""
    answers: NDArray[np.float32]

    def fault_in(self, message: bytes) -> str | None:
        """What is wrong with a PredictionResponse to it; None where nothing is."""
        try:
            came = numbers_in(message, len(self.answers))
        except ModelFaultError as error:
            return error.message
        if np.allclose(came, self.answers, rtol=0, atol=_TOLERANCE, equal_nan=False):
            return None
        return (
            "TorchServe answers the golden requests otherwise than when the version was loaded: it has another archive"
        )
