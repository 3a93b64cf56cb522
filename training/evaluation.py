"""A bundle's metrics on another dataset's test split: the champion measured with the challenger's yardstick."""

from typing import Any

from driftwheel.bundle import ONNX_GRAPH, Bundle
from driftwheel.errors import DataError
from driftwheel.preprocessing import encode
from training.data.dataset import Dataset, labels, public_tensors, read_split
from training.final_metrics import task_metrics

_CHUNK_ROWS = 65_536


def evaluate_bundle(bundle: Bundle, dataset: Dataset) -> dict[str, float]:
    """Run a bundle's graph, with the bundle's own vocabularies, over a dataset's test split.

    Raises:
        DataError: The bundle is for another task, or wants an input that the dataset does not have.
    """
    import numpy as np
    import onnxruntime as ort

    signature = bundle.manifest.signature
    _require_fit(bundle, dataset)
    table = read_split(dataset, "test")
    feed = encode(signature, bundle.vocabularies(), public_tensors(signature, table))
    session = ort.InferenceSession(bundle.path(ONNX_GRAPH).read_bytes(), providers=["CPUExecutionProvider"])
    output = signature.outputs[0].name
    parts: list[Any] = [
        session.run([output], {name: column[start : start + _CHUNK_ROWS] for name, column in feed.items()})[0]
        for start in range(0, len(table), _CHUNK_ROWS)
    ]
    return task_metrics(dataset.task, np.concatenate(parts), labels(dataset.signature, table))


def _require_fit(bundle: Bundle, dataset: Dataset) -> None:
    if bundle.manifest.task != dataset.task:
        raise DataError(
            f"{bundle.name} version {bundle.version} does {bundle.manifest.task}, the data is {dataset.task}"
        )
    offered = {spec.name: spec.datatype for spec in dataset.signature.inputs}
    for spec in bundle.manifest.signature.inputs:
        if offered.get(spec.name) != spec.datatype:
            raise DataError(
                f"{bundle.name} version {bundle.version} wants input {spec.name!r} as {spec.datatype}; "
                f"the data has {offered.get(spec.name, 'no such column')}"
            )
