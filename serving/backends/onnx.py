"""onnxruntime, one call a run."""

from pathlib import Path
from typing import Any

import onnxruntime as ort
from numpy.typing import NDArray

from driftwheel.errors import BundleError, ModelFaultError
from serving.backends.base import Feed
from serving.backends.onnx_options import CPU, Provider, session_options

PLATFORM = "onnxruntime_onnx"


def open_session(graph: Path, options: ort.SessionOptions, providers: list[Provider]) -> ort.InferenceSession:
    """Load a graph.

    Raises:
        BundleError: onnxruntime cannot load it, or not with the provider asked for.
    """
    try:
        session = ort.InferenceSession(str(graph), options, providers=providers)
    except Exception as error:  # onnxruntime's own exceptions share no narrower base class
        raise BundleError(f"onnxruntime cannot load {graph}: {error}") from error
    # A provider that fails would otherwise be dropped without a word, and every later call be slow instead.
    session.disable_fallback()
    if (loaded := session.get_providers()[0]) != providers[0][0]:
        raise BundleError(f"onnxruntime cannot run {graph} with {providers[0][0]}, it took {loaded}; its log says why")
    return session


class OnnxBackend:
    """A graph in an onnxruntime session on the CPU.

    ``session.run`` is the cheapest public entry: binding buffers saves two microseconds of nine for a single row and
    nothing for many, and wants a lock; run_with_ort_values costs four times as much.

    Args:
        graph: The ``.onnx`` file.
        intra_op_threads: Threads inside one run; 0 lets onnxruntime choose. One is right for small models: splitting a
            run of a few microseconds costs more than it saves.

    Raises:
        BundleError: onnxruntime cannot load the graph.
    """

    platform = PLATFORM

    def __init__(self, graph: Path, *, intra_op_threads: int) -> None:
        options = session_options(intra_op_threads=intra_op_threads)
        self._session: ort.InferenceSession | None = open_session(graph, options, [(CPU, {})])
        self._outputs = [output.name for output in self._session.get_outputs()]

    def run(self, feed: Feed) -> dict[str, NDArray[Any]]:
        """See ``Backend.run``."""
        try:
            if (session := self._session) is None:
                raise ModelFaultError("the model has been unloaded")
            arrays: Any = session.run(self._outputs, feed)
        except ModelFaultError:
            raise
        except Exception as error:  # onnxruntime's own exceptions share no narrower base class
            raise ModelFaultError(f"the model failed: {error}") from error
        return dict(zip(self._outputs, arrays, strict=True))

    def close(self) -> None:
        """See ``Backend.close``."""
        self._session = None
