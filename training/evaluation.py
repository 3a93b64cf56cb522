"""A bundle's metrics on another dataset's test split: the champion measured with the challenger's yardstick."""

from typing import Any

from driftwheel.bundle import ONNX_GRAPH, SEEN, Bundle
from driftwheel.errors import DataError
from driftwheel.preprocessing import encode
from training.config import TrainConfig
from training.data.dataset import Dataset, labels, public_tensors, read_split
from training.final_metrics import task_metrics

_CHUNK_ROWS = 65_536


def evaluate_bundle(bundle: Bundle, dataset: Dataset, config: TrainConfig | None = None) -> dict[str, float]:
    """Run a bundle's graph, with the bundle's own vocabularies, over a dataset's test split.

    Args:
        config: Says what mistakes cost; the defaults unless given.

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
    return task_metrics(dataset.task, np.concatenate(parts), labels(dataset.signature, table), config)


def share_seen(bundle: Bundle, dataset: Dataset) -> float:
    """The share of a dataset's test split that a rating bundle knows from its own training, 0 to 1; 0 for other tasks.

    Raises:
        DataError: As for ``evaluate_bundle``.
    """
    import numpy as np

    if SEEN not in bundle.manifest.files:
        return 0.0
    _require_fit(bundle, dataset)
    table = read_split(dataset, "test")
    feed = encode(bundle.manifest.signature, bundle.vocabularies(), public_tensors(bundle.manifest.signature, table))
    with np.load(bundle.path(SEEN), allow_pickle=False) as arrays:
        offsets, items = arrays["offsets"], arrays["items"]
    users = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    width = int(max(items.max(initial=0), feed["item_index"].max(initial=0))) + 1
    known = np.isin(feed["user_index"] * width + feed["item_index"], users * width + items)
    return float((known & (feed["user_index"] > 0) & (feed["item_index"] > 0)).mean())


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
