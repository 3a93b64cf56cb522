"""A bundle's metrics on another dataset's test split: the champion measured with the challenger's yardstick."""

from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from driftwheel.bundle import FACTOR_PARAMETERS, ITEM_FACTORS, ONNX_GRAPH, SEEN, USER_FACTORS, Bundle
from driftwheel.contracts import FactorParameters
from driftwheel.errors import DataError
from driftwheel.preprocessing import Tensors, encode
from training.config import TrainConfig
from training.data.dataset import Dataset, EncodedSplit, labels, public_tensors, read_split
from training.final_metrics import rank_for, rankings_judged, task_metrics
from training.models.matrix_factorization import MatrixFactorization, MatrixFactorizationShape

_CHUNK_ROWS = 65_536


def evaluate_bundle(bundle: Bundle, dataset: Dataset, config: TrainConfig | None = None) -> dict[str, float]:
    """Run a bundle's graph, with the bundle's own vocabularies, over a dataset's test split.

    Args:
        config: Says what mistakes cost; the defaults unless given.

    Raises:
        DataError: The bundle is for another task, or wants an input that the dataset does not have.
    """
    _require_fit(bundle, dataset)
    table = read_split(dataset, "test")
    predicted = bundle_answers(bundle, public_tensors(bundle.manifest.signature, table))
    metrics = task_metrics(dataset.task, predicted, labels(dataset.signature, table), config)
    if FACTOR_PARAMETERS not in bundle.manifest.files:
        return metrics
    splits = (_encoded(bundle, read_split(dataset, split)) for split in ("train", "test"))
    return metrics | rankings_judged(_factorization(bundle), *splits)


def bundle_rankings(bundle: Bundle, users: NDArray[Any], seen: Tensors, depth: int) -> NDArray[np.int64]:
    """What a bundle's factors rank for users, of all items that it knows: ``[users, depth]`` indices of its vocabulary, best
    first, -1 where a list ends early.

    Args:
        users: The ids of some that it knows, ``[users]``.
        seen: ``user_id`` and ``item_id`` ``[rows]`` of what is left out of their lists.

    Raises:
        DataError: The bundle has no factors.
    """
    if FACTOR_PARAMETERS not in bundle.manifest.files:
        raise DataError(f"{bundle.name} version {bundle.version} has no factors to rank items by")
    vocabularies = bundle.vocabularies()
    left_out = {
        "user_index": vocabularies["user_id"].encode(seen["user_id"]),
        "item_index": vocabularies["item_id"].encode(seen["item_id"]),
    }
    return rank_for(_factorization(bundle), vocabularies["user_id"].encode(users), left_out, depth)


def is_for_ranking(bundle: Bundle) -> bool:
    """Whether a bundle's model was trained to rank items, not to predict ratings."""
    return FACTOR_PARAMETERS in bundle.manifest.files and _factor_parameters(bundle).preference is not None


def _factor_parameters(bundle: Bundle) -> FactorParameters:
    return msgspec.json.decode(bundle.path(FACTOR_PARAMETERS).read_bytes(), type=FactorParameters)


def _encoded(bundle: Bundle, table: pa.Table) -> EncodedSplit:
    """Rows as a bundle's own vocabularies have them."""
    signature = bundle.manifest.signature
    feed = encode(signature, bundle.vocabularies(), public_tensors(signature, table))
    return EncodedSplit(feed, labels(signature, table))


@torch.no_grad()
def _factorization(bundle: Bundle) -> MatrixFactorization:
    """The model that a bundle's factors are of."""
    parameters = _factor_parameters(bundle)
    users, items = (
        torch.from_numpy(np.load(bundle.path(file), allow_pickle=False)) for file in (USER_FACTORS, ITEM_FACTORS)
    )
    shape = MatrixFactorizationShape(
        users=len(users), items=len(items) + 1, factors=users.shape[1] - 1, low=parameters.low, high=parameters.high
    )
    model = MatrixFactorization(shape)
    model.user_vector.weight.copy_(users[:, :-1])
    model.user_bias.weight.copy_(users[:, -1:])
    model.item_vector.weight[1:] = items[:, :-1]
    model.item_bias.weight[1:] = items[:, -1:]
    model.mean.fill_(parameters.mean)
    return model.eval()


def bundle_answers(bundle: Bundle, tensors: Tensors) -> NDArray[np.float32]:
    """What a bundle's graph answers, with the bundle's own vocabularies, float32 ``[rows]``.

    Args:
        tensors: Each public input, ``[rows]``.
    """
    import onnxruntime as ort

    signature = bundle.manifest.signature
    feed = encode(signature, bundle.vocabularies(), tensors)
    session = ort.InferenceSession(bundle.path(ONNX_GRAPH).read_bytes(), providers=["CPUExecutionProvider"])
    output = signature.outputs[0].name
    rows = len(next(iter(feed.values())))
    parts: list[Any] = [
        session.run([output], {name: column[start : start + _CHUNK_ROWS] for name, column in feed.items()})[0]
        for start in range(0, rows, _CHUNK_ROWS)
    ]
    return np.concatenate(parts)


def share_seen(bundle: Bundle, dataset: Dataset) -> float:
    """The share of a dataset's test split that a rating bundle knows from its own training, 0 to 1; 0 for other tasks.

    Raises:
        DataError: As for ``evaluate_bundle``.
    """
    _require_fit(bundle, dataset)
    return float(rows_seen(bundle, public_tensors(bundle.manifest.signature, read_split(dataset, "test"))).mean())


def rows_seen(bundle: Bundle, tensors: Tensors) -> NDArray[np.bool_]:
    """Which rows ``[rows]`` a rating bundle knows from its own training; none in other tasks.

    Args:
        tensors: Each public input, ``[rows]``.
    """
    if SEEN not in bundle.manifest.files:
        return np.zeros(len(next(iter(tensors.values()))), dtype=bool)
    feed = encode(bundle.manifest.signature, bundle.vocabularies(), tensors)
    with np.load(bundle.path(SEEN), allow_pickle=False) as arrays:
        offsets, items = arrays["offsets"], arrays["items"]
    users = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    width = int(max(items.max(initial=0), feed["item_index"].max(initial=0))) + 1
    known = np.isin(feed["user_index"] * width + feed["item_index"], users * width + items)
    return known & (feed["user_index"] > 0) & (feed["item_index"] > 0)


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
