"""onnxruntime on a device, through IO binding, with CUDA graphs for fixed numbers of rows.

A CUDA graph replays the launches of a whole run in one call, at the addresses that it was recorded with. So each bucket of
rows has input and output buffers of its own on the device, and one graph; a request is padded to the next bucket. Runs
larger than the largest bucket are bound for themselves and not recorded.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from driftwheel.errors import BundleError, ModelFaultError
from serving.backends.base import Feed
from serving.backends.buckets import Buffers, bucket_for, fill, rows_of, zeros
from serving.backends.onnx import PLATFORM, open_session
from serving.backends.onnx_options import GRAPH_ID, NO_GRAPH, providers, session_options, tensorrt_profile

_DTYPES = {
    "tensor(int64)": np.dtype(np.int64),
    "tensor(float)": np.dtype(np.float32),
    "tensor(int32)": np.dtype(np.int32),
}


@dataclass(frozen=True, slots=True)
class _Bucket:
    """What runs of one number of rows share."""

    host: Buffers
    inputs: dict[str, ort.OrtValue]
    outputs: dict[str, ort.OrtValue]
    binding: ort.IOBinding
    options: ort.RunOptions


class BoundOnnxBackend:
    """A graph ``[rows, ...]`` in, ``[rows, ...]`` out, on a device.

    Args:
        graph: The ``.onnx`` file.
        device: ``cpu`` serves to test the binding where there is no device.
        buckets: Row counts that get buffers, and on a device a CUDA graph, of their own. They are recorded here, so that
            no request waits for it.
        engine_cache: Where TensorRT keeps its engines.
        max_rows: The most rows of one run, for TensorRT.

    Raises:
        BundleError: onnxruntime cannot load the graph, or cannot run all of it on the device, as CUDA graphs need.
    """

    platform = PLATFORM

    def __init__(
        self,
        graph: Path,
        *,
        device: Literal["cpu", "cuda", "tensorrt"],
        intra_op_threads: int,
        buckets: Sequence[int] = (),
        engine_cache: Path | None = None,
        max_rows: int = 8192,
    ) -> None:
        profile = None
        if device == "tensorrt":
            shapes = _shapes(open_session(graph, session_options(intra_op_threads=1), providers("cpu")).get_inputs())
            profile = tensorrt_profile({name: shape for name, (shape, _) in shapes.items()}, max_rows=max_rows)
        chosen = providers(device, cuda_graphs=bool(buckets), engine_cache=engine_cache, profile=profile)
        self._device = "cpu" if device == "cpu" else "cuda"
        self._session: ort.InferenceSession | None = open_session(
            graph, session_options(intra_op_threads=intra_op_threads), chosen
        )
        self._inputs = _shapes(self._session.get_inputs())
        self._outputs = _shapes(self._session.get_outputs())
        # A session that records graphs takes one run at a time; and a bucket's buffers hold one request at a time.
        self._lock = threading.Lock()
        self._rows = sorted(set(buckets))
        self._unrecorded = _run_options(NO_GRAPH) if buckets else None
        self._buckets: dict[int, _Bucket] = {}
        try:
            for number, rows in enumerate(self._rows, start=1):
                self._buckets[rows] = self._bucket(self._session, rows, number)
                self.run(zeros(self._inputs, rows))
        except ModelFaultError as error:
            raise BundleError(f"{graph} cannot run with fixed numbers of rows: {error}") from error

    def run(self, feed: Feed) -> dict[str, NDArray[Any]]:
        """See ``Backend.run``."""
        try:
            if (session := self._session) is None:
                raise ModelFaultError("the model has been unloaded")
            rows = rows_of(feed)
            if not self._rows:
                return self._run_bound(session, feed)
            bucket = self._buckets.get(bucket_for(rows, self._rows) or 0)
            with self._lock:
                return self._run_bucket(session, bucket, feed, rows) if bucket else self._run_bound(session, feed)
        except ModelFaultError:
            raise
        except Exception as error:  # onnxruntime's own exceptions share no narrower base class
            raise ModelFaultError(f"the model failed: {error}") from error

    def close(self) -> None:
        """See ``Backend.close``."""
        with self._lock:
            self._buckets.clear()
            self._session = None

    def _run_bucket(
        self, session: ort.InferenceSession, bucket: _Bucket, feed: Feed, rows: int
    ) -> dict[str, NDArray[Any]]:
        fill(bucket.host, feed, rows)
        for name, value in bucket.inputs.items():
            value.update_inplace(bucket.host[name])
        session.run_with_iobinding(bucket.binding, bucket.options)
        bucket.binding.synchronize_outputs()
        # A copy: on the CPU the value's array is the buffer itself, which the next run overwrites.
        return {name: np.array(value.numpy()[:rows]) for name, value in bucket.outputs.items()}

    def _run_bound(self, session: ort.InferenceSession, feed: Feed) -> dict[str, NDArray[Any]]:
        if feed.keys() != self._inputs.keys():
            raise ModelFaultError(f"the model takes {', '.join(sorted(self._inputs))}, got {', '.join(sorted(feed))}")
        binding = session.io_binding()
        for name, values in feed.items():
            if values.dtype != self._inputs[name][1]:
                raise ModelFaultError(f"graph input {name!r} must be {self._inputs[name][1]}, got {values.dtype}")
            binding.bind_cpu_input(name, np.ascontiguousarray(values))
        for name in self._outputs:
            binding.bind_output(name)  # on the host; onnxruntime allocates, as it alone knows the shape
        session.run_with_iobinding(binding, self._unrecorded)
        return dict(zip(self._outputs, binding.copy_outputs_to_cpu(), strict=True))

    def _bucket(self, session: ort.InferenceSession, rows: int, number: int) -> _Bucket:
        host = zeros(self._inputs, rows)
        inputs = {name: self._value(array) for name, array in host.items()}
        outputs = {name: self._value(array) for name, array in zeros(self._outputs, rows).items()}
        binding = session.io_binding()
        for name, value in inputs.items():
            binding.bind_ortvalue_input(name, value)
        for name, value in outputs.items():
            binding.bind_ortvalue_output(name, value)
        return _Bucket(host, inputs, outputs, binding, _run_options(number))

    def _value(self, like: NDArray[Any]) -> ort.OrtValue:
        return ort.OrtValue.ortvalue_from_shape_and_type(like.shape, like.dtype.type, self._device, 0)


def _shapes(nodes: Sequence[Any]) -> dict[str, tuple[list[Any], np.dtype[Any]]]:
    return {node.name: (node.shape, _DTYPES[node.type]) for node in nodes}


def _run_options(graph_id: int) -> ort.RunOptions:
    options = ort.RunOptions()
    options.add_run_config_entry(GRAPH_ID, str(graph_id))
    return options
