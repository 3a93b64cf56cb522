"""A model that is an ONNX graph from the day it was trained: what scikit-learn's become, so that nothing is pickled."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from driftwheel.errors import TrainingError

GRAPH = "model.onnx"
EVIDENCE = "evidence.npz"
"""``<case>:<input>`` arrays of hostile rows, and ``<case>:answer``, what the model answered before it became a graph."""

Case = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class GraphModel:
    """The graph, and what it has to answer. Its inputs are the dataset's graph inputs, its one output is ``[rows]``."""

    content: bytes
    evidence: dict[str, Case]

    def answers(self, feed: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
        """The output float32 ``[rows]`` for graph inputs."""
        return self._session.run(None, {name: feed[name] for name in self.inputs})[0]

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of the graph's inputs."""
        return tuple(spec.name for spec in self._session.get_inputs())

    @property
    def output(self) -> str:
        """The name of the graph's output."""
        return self._session.get_outputs()[0].name

    @cached_property
    def _session(self) -> Any:
        import onnxruntime as ort

        return ort.InferenceSession(self.content, providers=["CPUExecutionProvider"])


def write_graph(folder: Path, model: GraphModel) -> None:
    """Write the graph and its evidence."""
    (folder / GRAPH).write_bytes(model.content)
    arrays = {f"{case}:{name}": array for case, arrays in model.evidence.items() for name, array in arrays.items()}
    np.savez_compressed(folder / EVIDENCE, **arrays)  # pyright: ignore[reportArgumentType] (a keyword named file is none)


def read_graph(folder: Path) -> GraphModel:
    """Read what ``write_graph`` wrote.

    Raises:
        TrainingError: A file is missing or damaged.
    """
    evidence: dict[str, Case] = {}
    try:
        content = (folder / GRAPH).read_bytes()
        with np.load(folder / EVIDENCE, allow_pickle=False) as arrays:
            for key in arrays.files:
                case, _, name = key.rpartition(":")
                evidence.setdefault(case, {})[name] = arrays[key]
    except (OSError, ValueError, EOFError) as error:
        raise TrainingError(f"the model in {folder} is missing or damaged: {error}") from None
    return GraphModel(content, evidence)
