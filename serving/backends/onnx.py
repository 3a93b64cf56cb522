"""onnxruntime."""

from pathlib import Path
from typing import Any

import onnxruntime as ort
from numpy.typing import NDArray

from driftwheel.errors import BundleError, ModelFaultError
from serving.backends.base import Feed


class OnnxBackend:
    """A graph in an onnxruntime session.

    Args:
        graph: The ``.onnx`` file.
        intra_op_threads: Threads inside one run; 0 lets onnxruntime choose. One is right for small models: splitting a
            run of a few microseconds costs more than it saves, and spinning threads take cores from the front door.

    Raises:
        BundleError: onnxruntime cannot load the graph.
    """

    def __init__(self, graph: Path, *, intra_op_threads: int) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = intra_op_threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        providers = [p for p in ("CUDAExecutionProvider", "CPUExecutionProvider") if p in ort.get_available_providers()]
        try:
            self._session = ort.InferenceSession(str(graph), options, providers=providers)
        except Exception as error:  # onnxruntime's own exceptions share no narrower base class
            raise BundleError(f"onnxruntime cannot load {graph}: {error}") from error
        self._outputs = [output.name for output in self._session.get_outputs()]

    def run(self, feed: Feed) -> dict[str, NDArray[Any]]:
        """See ``Backend.run``."""
        try:
            arrays: list[Any] = list(self._session.run(self._outputs, feed))
        except Exception as error:  # onnxruntime's own exceptions share no narrower base class
            raise ModelFaultError(f"the model failed: {error}") from error
        return dict(zip(self._outputs, arrays, strict=True))
