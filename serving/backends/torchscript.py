"""TorchScript. The one file of the server that imports torch, and only once a model is to run on it."""

import warnings
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from driftwheel.errors import BundleError, ConfigurationError, ModelFaultError
from serving.backends.base import Feed
from serving.backends.buckets import rows_of

if TYPE_CHECKING:
    import torch

PLATFORM = "pytorch_torchscript"


class TorchScriptBackend:
    """A frozen TorchScript module. Its arguments' names are the graph's inputs.

    PyTorch has one pool of threads for the whole process: ``intra_op_threads`` holds for every TorchScript model, and
    the value of the one loaded last wins. 0 leaves the pool as it is.

    Args:
        graph: The ``.ts`` file.
        outputs: The names of what the module returns, in its order; TorchScript knows no names for them.
        device: ``cpu`` or ``cuda``.

    Raises:
        BundleError: PyTorch cannot load the graph.
        ConfigurationError: PyTorch is not installed, or there is no such device.
    """

    platform = PLATFORM

    def __init__(self, graph: Path, outputs: Sequence[str], *, device: str, intra_op_threads: int) -> None:
        torch = self._torch = _torch()
        if device == "cuda" and not torch.cuda.is_available():
            raise ConfigurationError("device 'cuda' was asked for, but PyTorch finds no CUDA device")
        if intra_op_threads and torch.get_num_threads() != intra_op_threads:
            torch.set_num_threads(intra_op_threads)
        self._outputs = list(outputs)
        self._device = torch.device(device)
        try:
            with _deprecated():
                module = torch.jit.load(str(graph), map_location=self._device)
                # The bundle's graph is frozen already; this adds what depends on the machine.
                self._module: Any = torch.jit.optimize_for_inference(module.eval())
            self._inputs = [argument.name for argument in module.forward.schema.arguments[1:]]
        except (RuntimeError, ValueError) as error:
            raise BundleError(f"PyTorch cannot load {graph}: {_first_line(error)}") from error

    def run(self, feed: Feed) -> dict[str, NDArray[Any]]:
        """See ``Backend.run``."""
        torch = self._torch
        if (module := self._module) is None:
            raise ModelFaultError("the model has been unloaded")
        if set(feed) != set(self._inputs):
            raise ModelFaultError(f"the model takes {', '.join(self._inputs)}, got {', '.join(sorted(feed))}")
        rows = rows_of(feed)  # PyTorch itself would stretch the shorter ones
        try:
            with torch.inference_mode():
                answer = module(*(self._tensor(feed[name]) for name in self._inputs))
                tensors = [answer] if isinstance(answer, torch.Tensor) else list(answer)
                arrays = [np.asarray(tensor.cpu().numpy()) for tensor in tensors]
        except Exception as error:  # TorchScript raises an exception class of its own for each Python one
            raise ModelFaultError(f"the model failed: {_first_line(error)}") from error
        if [array.shape for array in arrays] != [(rows,)] * len(self._outputs):
            given = ", ".join(str(list(array.shape)) for array in arrays)
            raise ModelFaultError(f"the model must give {', '.join(self._outputs)} of shape [{rows}], it gave {given}")
        return dict(zip(self._outputs, arrays, strict=True))

    def close(self) -> None:
        """See ``Backend.close``."""
        self._module = None

    def _tensor(self, values: NDArray[Any]) -> "torch.Tensor":
        # A tensor shares the array's memory, and knows no read-only memory.
        return self._torch.from_numpy(values if values.flags.writeable else values.copy()).to(self._device)


def _torch() -> Any:
    try:
        import torch
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise ConfigurationError(
            "the backend 'torchscript' was asked for, but PyTorch is not installed here",
            hint="install it (pip install torch==2.13.0), or set serving.backend to onnx",
        ) from None
    return torch


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


@contextmanager
def _deprecated() -> Generator[None]:
    """PyTorch deprecates TorchScript; bundles carry it because TorchServe takes nothing newer."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r".*torch\.jit\..* is deprecated", DeprecationWarning)
        yield
