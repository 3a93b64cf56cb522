"""TorchServe. A run is a call to it, with the version pinned, and the columns as raw little-endian numbers."""

import time
import weakref
from collections.abc import Mapping
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray

from driftwheel.contracts import Signature
from driftwheel.errors import BundleError, ModelFaultError, RequestError, UnavailableError
from driftwheel.preprocessing import graph_widths
from serving._proto import torchserve_inference_pb2 as pb
from serving.backends.base import Feed
from serving.backends.buckets import rows_of
from serving.backends.torchserve_answers import Proof, numbers_in
from serving.backends.torchserve_faults import Again, again, fault_of, is_unregistered
from serving.backends.torchserve_link import TorchServeLink

PLATFORM = "torchserve_onnx"

_CALL_BYTES = 4 * 2**20
"""The columns of one call; TorchServe takes 6.5 MB unless told otherwise."""


class TorchServeBackend:
    """A version that TorchServe runs, from the archive of the same bundle.

    Args:
        link: The way to TorchServe; closed with the backend.
        name: The model's name there, as here.
        version: Its version there, as here.
        signature: What it takes and gives.
        timeout_s: How long one call may take, its second try included.

    Raises:
        BundleError: The signature has several outputs: TorchServe answers with one.
    """

    platform = PLATFORM

    def __init__(
        self, link: TorchServeLink, *, name: str, version: int, signature: Signature, timeout_s: float
    ) -> None:
        if len(signature.outputs) != 1:
            link.close()
            names = ", ".join(spec.name for spec in signature.outputs)
            raise BundleError(f"TorchServe answers with one output, {name} version {version} has {names}")
        self._link: TorchServeLink | None = link
        self._name = name
        self._version = version
        self._output = signature.outputs[0].name
        self._timeout_s = timeout_s
        widths = graph_widths(signature)
        self._inputs: dict[str, tuple[np.dtype[Any], tuple[int, ...]]] = {
            spec.graph_input: (
                np.dtype("<f4" if spec.role == "number" else "<i8"),
                () if spec.column is None else (widths[spec.graph_input],),
            )
            for spec in signature.inputs
        }
        # Versions that have left are freed, not closed, with the last call on them.
        weakref.finalize(self, link.close)

    @property
    def down(self) -> str | None:
        """See ``RemoteBackend.down``."""
        return self._link.down if self._link is not None else None

    def run(self, feed: Feed) -> dict[str, NDArray[Any]]:
        """See ``Backend.run``.

        Raises:
            UnavailableError: TorchServe is down, or has no such version.
            OverloadedError: It has too much to do.
        """
        if (link := self._link) is None:
            raise ModelFaultError("the model has been unloaded")
        rows = self._checked(feed)
        step = self._rows_of_a_call()
        ends = [(start, min(start + step, rows)) for start in range(0, rows, step)]
        parts = [numbers_in(self._ask(link, self._message(feed, *part)), part[1] - part[0]) for part in ends]
        answer = np.concatenate(parts, dtype=np.float32) if parts else np.empty(0, np.float32)
        return {self._output: answer}

    def remember(self, feed: Feed, answers: Mapping[str, NDArray[Any]]) -> None:
        """See ``RemoteBackend.remember``."""
        if (link := self._link) is not None:
            rows = min(self._checked(feed), self._rows_of_a_call())
            link.proof = Proof(self._message(feed, 0, rows), answers[self._output][:rows])

    def close(self) -> None:
        """See ``Backend.close``."""
        if (link := self._link) is not None:
            self._link = None
            link.close()

    def _checked(self, feed: Feed) -> int:
        """The rows of a feed that fits."""
        if feed.keys() != self._inputs.keys():
            raise ModelFaultError(f"the model takes {', '.join(self._inputs)}, got {', '.join(sorted(feed))}")
        for name, (dtype, width) in self._inputs.items():
            values = feed[name]
            if values.dtype != dtype or values.shape[1:] != width:
                raise ModelFaultError(
                    f"graph input {name!r} must be {dtype.name} {['rows', *width]}, "
                    f"got {values.dtype} {list(values.shape)}"
                )
        return rows_of(feed)

    def _rows_of_a_call(self) -> int:
        row_bytes = sum(dtype.itemsize * (width[0] if width else 1) for dtype, width in self._inputs.values())
        return max(1, _CALL_BYTES // row_bytes)

    def _message(self, feed: Feed, start: int, end: int) -> bytes:
        columns = {name: feed[name][start:end].astype(dtype, copy=False) for name, (dtype, _) in self._inputs.items()}
        request = pb.PredictionsRequest(
            model_name=self._name,
            model_version=str(self._version),
            input={name: column.tobytes() for name, column in columns.items()},
        )
        return request.SerializeToString()

    def _ask(self, link: TorchServeLink, message: bytes) -> bytes:
        give_up = time.monotonic() + self._timeout_s
        try:
            return link.call(message, self._timeout_s)
        except grpc.RpcError as error:
            advice = again(error)
            if advice is Again.NO:
                raise self._fault(link, error) from error
        if advice is Again.IF_IT_ANSWERS and (down := link.look()) is not None:
            raise UnavailableError(down)
        try:
            return link.call(message, max(0.0, give_up - time.monotonic()))
        except grpc.RpcError as error:
            raise self._fault(link, error) from error

    def _fault(self, link: TorchServeLink, error: grpc.RpcError) -> RequestError:
        label = f"{self._name} version {self._version}"
        fault = fault_of(error, label=label, target=link.target, timeout_s=self._timeout_s)
        if is_unregistered(error):
            link.trip(fault.message)
        return fault
