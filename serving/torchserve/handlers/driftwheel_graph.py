"""The graph of an archive: ONNX in onnxruntime, or TorchScript in PyTorch."""

import logging
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

_CPU, _CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"

_log = logging.getLogger(__name__)

Feed = Mapping[str, NDArray[Any]]


class Graph(Protocol):
    """A loaded graph."""

    device: str
    """Where it runs: ``cpu`` or ``cuda:<n>``."""

    def run(self, feed: Feed) -> NDArray[np.float32]:
        """The output ``[rows]``."""
        ...


def open_graph(path: Path, output: str, gpu: int | None) -> Graph:
    """Load a graph.

    Args:
        path: A file that ends in ``.onnx`` or ``.ts``.
        output: The name of the output to give; TorchScript knows no names, and gives its first.
        gpu: The device that TorchServe gave to this worker; None: none.
    """
    return TorchScriptGraph(path, gpu) if path.suffix == ".ts" else OnnxGraph(path, output, gpu)


class OnnxGraph:
    """A graph in an onnxruntime session, on one thread: TorchServe scales by workers."""

    def __init__(self, path: Path, output: str, gpu: int | None) -> None:
        os.environ.setdefault(
            "ORT_DISABLE_TELEMETRY", "1"
        )  # else it reports its use to its maker, and marks the machine
        import onnxruntime as ort

        wanted = onnx_providers(gpu, ort.get_available_providers())
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.enable_mem_pattern = False  # one is kept for every number of rows that ever came
        self._session: Any = ort.InferenceSession(str(path), options, providers=wanted)
        loaded = self._session.get_providers()[0]
        self.device = f"cuda:{gpu}" if loaded == _CUDA else "cpu"
        if gpu is not None and self.device == "cpu":
            _log.warning("onnxruntime has no %s here: the graph runs on the CPU, not on GPU %d", _CUDA, gpu)
        self._output = [output]

    def run(self, feed: Feed) -> NDArray[np.float32]:
        """See ``Graph.run``."""
        return self._session.run(self._output, dict(feed))[0]


def onnx_providers(gpu: int | None, available: list[str]) -> list[tuple[str, dict[str, str]]]:
    """The execution providers to ask for, best first: CUDA on the given device where onnxruntime has it, then the CPU."""
    cpu: list[tuple[str, dict[str, str]]] = [(_CPU, {})]
    if gpu is None or _CUDA not in available:
        return cpu
    # A version must answer as it did when it was proved, so no TensorFloat-32; and workers share the device.
    return [(_CUDA, {"device_id": str(gpu), "use_tf32": "0", "arena_extend_strategy": "kSameAsRequested"}), *cpu]


class TorchScriptGraph:
    """A frozen TorchScript module. Its arguments' names are the graph's inputs."""

    def __init__(self, path: Path, gpu: int | None) -> None:
        import torch

        self._torch = torch
        torch.set_num_threads(1)  # TorchServe scales by workers
        self.device = f"cuda:{gpu}" if gpu is not None and torch.cuda.is_available() else "cpu"
        if gpu is not None and self.device == "cpu":
            _log.warning("PyTorch finds no CUDA device: the graph runs on the CPU, not on GPU %d", gpu)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r".*torch\.jit\..* is deprecated", DeprecationWarning)
            self._module: Any = torch.jit.load(str(path), map_location=self.device).eval()
        self._inputs = [argument.name for argument in self._module.forward.schema.arguments[1:]]

    def run(self, feed: Feed) -> NDArray[np.float32]:
        """See ``Graph.run``."""
        torch = self._torch
        with torch.inference_mode():
            # A tensor shares its array's memory, and knows no read-only memory.
            arrays = [np.require(feed[name], requirements=["C", "W"]) for name in self._inputs]
            answer = self._module(*(torch.from_numpy(array).to(self.device) for array in arrays))
            first = answer if isinstance(answer, torch.Tensor) else answer[0]
            return first.cpu().numpy()
