"""What the model that a version's metrics are of answered on its test split: kept, so that versions can be compared row by
row later on.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from driftwheel.contracts import Signature
from driftwheel.errors import TrainingError
from driftwheel.predictions import INPUT_PREFIX, OUTPUT_PREFIX
from training.data.dataset import Dataset, EncodedSplit, encoded_split, labels, public_tensors, read_split
from training.data.refit import refit_dataset
from training.inference import predict
from training.job import TrainedModel
from training.models.graph import GraphModel
from training.models.store import Model, load_any

FILE = "answers.parquet"

_LABEL = "label"
_TIME = "at"
_SIGNATURE = b"driftwheel.signature"
"""The key of the table's metadata under which the signature stands, as JSON."""


@dataclass(frozen=True, slots=True)
class Measured:
    """The model that was measured, and the test split as it sees it."""

    model: Model | GraphModel
    split: EncodedSplit
    dataset: Dataset
    """What it learned from, with the same test split."""
    predicted: NDArray[np.float32]
    """``[rows]``."""


def measure(measured: TrainedModel, dataset: Dataset) -> Measured:
    """Let a model that has not learned from a dataset's test split answer it.

    Args:
        measured: Trained on the dataset's training split, or on all its rows but the test split.
    """
    own = measured.fingerprint == dataset.fingerprint
    learned = dataset if own else refit_dataset(dataset, keep_test=True)
    split = encoded_split(learned, "test")
    model = load_any(measured.folder)
    return Measured(model, split, learned, predict(model, split.feed))


def write_answers(path: Path, dataset: Dataset, predicted: NDArray[np.float32]) -> None:
    """Write the rows of a dataset's test split with their answers, as a bundle's reference has them: ``in_<input>``,
    ``out_<output>`` and ``label``; and ``at``, where rows have a time.
    """
    signature, table = dataset.signature, read_split(dataset, "test")
    columns = {INPUT_PREFIX + spec.name: table[spec.name] for spec in signature.inputs}
    columns[OUTPUT_PREFIX + signature.outputs[0].name] = pa.array(predicted)
    columns[_LABEL] = pa.array(labels(signature, table))
    if _TIME in table.column_names:
        columns[_TIME] = table[_TIME]
    described = {_SIGNATURE: msgspec.json.encode(signature)}
    pq.write_table(pa.table(columns).replace_schema_metadata(described), path)


@dataclass(frozen=True, slots=True)
class Answers:
    """Rows of a test split: public inputs, what was predicted, and what was right; each ``[rows]``."""

    signature: Signature
    tensors: dict[str, NDArray[Any]]
    predicted: NDArray[np.float32]
    actual: NDArray[np.float32]
    at: NDArray[np.int64] | None
    """When, in seconds since the epoch; None where rows have no time."""


def read_answers(path: Path) -> Answers:
    """Read what ``write_answers`` wrote.

    Raises:
        TrainingError: It is damaged.
    """
    try:
        table = pq.read_table(path)
        signature = msgspec.json.decode((table.schema.metadata or {}).get(_SIGNATURE, b""), type=Signature)
        names = {INPUT_PREFIX + spec.name: spec.name for spec in signature.inputs}
        inputs = table.select(list(names)).rename_columns(list(names.values()))
        predicted = table[OUTPUT_PREFIX + signature.outputs[0].name].to_numpy()
        at = table[_TIME].to_numpy() if _TIME in table.column_names else None
        return Answers(signature, public_tensors(signature, inputs), predicted, table[_LABEL].to_numpy(), at)
    except (OSError, KeyError, pa.ArrowException, msgspec.MsgspecError) as error:
        raise TrainingError(f"the recorded answers in {path.name} are missing or damaged: {error}") from None
