"""A prepared dataset on disk: what training, export and evaluation read.

::

    <data>/<kind>/<fingerprint[:16]>/
      dataset.json            this module's Dataset
      train|valid|test.parquet  raw public inputs, the label, and for ratings the time
      reference.parquet         a sample of the training period that is not trained on: what drift is measured against
      vocabulary/<input>.json   ids and categories of the training split, in index order
      items.parquet, user_features.parquet, item_features.parquet   of the training split (task "rating")
      titles.parquet            title and traits of all items, those not trained on too (task "rating")
      live.parquet              customers kept out of everything, to be replayed as traffic (task "churn")
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from driftwheel.bundle import read_vocabulary
from driftwheel.contracts import InputSpec, Signature, Task
from driftwheel.errors import DataError
from driftwheel.preprocessing import encode
from driftwheel.vocabulary import Vocabulary

if TYPE_CHECKING:
    import pandas as pd

Split = Literal["train", "valid", "test", "reference", "live"]

DESCRIPTION = "dataset.json"
ITEMS = "items.parquet"
TITLES = "titles.parquet"
TRAIT_PREFIX = "trait_"
"""Of the columns that say what is known of items."""
USER_FEATURES = "user_features.parquet"
ITEM_FEATURES = "item_features.parquet"


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetDescription:
    """The content of ``dataset.json``."""

    task: Task
    fingerprint: str
    """SHA-256 over the prepared rows in order, and over how they were split."""
    rows: dict[str, int]
    """Rows of each split."""
    dropped: dict[str, int]
    """Rows of the source left out, by reason."""
    data_until: str | None
    """The newest event of the prepared rows, the held-out ones included; ISO 8601, None for data without time."""
    signature: Signature
    vocabularies: dict[str, str]
    """Input name to vocabulary file, relative to the folder."""
    split: dict[str, float]
    """The parameters of the split."""
    source: str
    """What the rows were read from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset(DatasetDescription):
    """A prepared dataset and where it lies."""

    folder: Path

    def path(self, file: str) -> Path:
        """Where one of the dataset's files lies."""
        return self.folder / file

    def read_vocabularies(self) -> dict[str, Vocabulary]:
        """The vocabulary of each ``id`` and ``category`` input."""
        return {name: read_vocabulary(self.folder / file) for name, file in self.vocabularies.items()}


@dataclass(frozen=True, slots=True)
class EncodedSplit:
    """A split as a graph takes it: ``feed`` of ``[rows]`` or ``[rows, columns]`` arrays, ``label`` float32 ``[rows]``."""

    feed: dict[str, NDArray[Any]]
    label: NDArray[np.float32]


def read_dataset(folder: Path) -> Dataset:
    """Read a prepared dataset's description.

    Raises:
        DataError: There is none, or it is damaged.
    """
    path = folder / DESCRIPTION
    try:
        description = msgspec.json.decode(path.read_bytes(), type=DatasetDescription)
    except FileNotFoundError:
        raise DataError(f"no prepared dataset at {folder}", hint="driftwheel data prepares one") from None
    except msgspec.MsgspecError as error:
        raise DataError(f"{path} is damaged: {error}", hint="delete the folder and prepare it again") from None
    return Dataset(**_fields(description), folder=folder)


def describe_again(dataset: Dataset, **changes: Any) -> DatasetDescription:
    """The description of a dataset that is made from another."""
    return DatasetDescription(**(_fields(dataset) | changes))


def as_read_from(dataset: Dataset, description: DatasetDescription) -> Dataset:
    """A dataset with the source of a description of the same rows: they may have been prepared from another file before, which
    other rows were left out of.
    """
    return replace(dataset, source=description.source, dropped=description.dropped)


def write_description(folder: Path, description: DatasetDescription) -> None:
    """Write ``dataset.json``."""
    (folder / DESCRIPTION).write_bytes(msgspec.json.format(msgspec.json.encode(description), indent=2))


def reference_split(dataset: Dataset) -> Split:
    """The split that drift is measured against: a sample of the training period where there is one, else the test split.

    Where rows have a time, the test split is the newest part of it, and has drifted itself.
    """
    return "reference" if "reference" in dataset.rows else "test"


def read_split(dataset: Dataset, split: Split) -> pa.Table:
    """A split's rows as they were prepared, with public inputs by name."""
    return read_parquet(dataset.path(f"{split}.parquet"))


def read_parquet(path: Path) -> pa.Table:
    """One file, whole. ``pyarrow.parquet.read_table`` imports pandas, which no rank needs, and takes a folder ``a=b`` that the
    file lies in for a column.
    """
    with pq.ParquetFile(path) as file:
        return file.read()


def public_tensors(signature: Signature, table: pa.Table) -> dict[str, NDArray[Any]]:
    """The public input tensors ``[rows]`` of a table: int64, float32, or object (text, None where missing)."""
    return {spec.name: _tensor(spec, table[spec.name]) for spec in signature.inputs}


def encoded_split(dataset: Dataset, split: Split) -> EncodedSplit:
    """A split encoded with the dataset's own vocabularies, by the function that serving uses."""
    table = read_split(dataset, split)
    feed = encode(dataset.signature, dataset.read_vocabularies(), public_tensors(dataset.signature, table))
    return EncodedSplit(feed, labels(dataset.signature, table))


def labels(signature: Signature, table: pa.Table) -> NDArray[np.float32]:
    """The label column, float32 ``[rows]``."""
    return table[signature.label].to_numpy().astype(np.float32)


def fingerprint_of(frames: Iterable["pd.DataFrame"], parameters: object) -> str:
    """SHA-256 over values in order, column names, and whatever else (as JSON) made the result what it is."""
    digest = hashlib.sha256(msgspec.json.encode(parameters, order="deterministic"))
    for frame in frames:
        for name in frame.columns:
            values = frame[name].to_numpy()
            digest.update(f"{name}:{len(values)}:".encode())
            digest.update(msgspec.json.encode(values.tolist()) if values.dtype == object else values.tobytes())
    return digest.hexdigest()


def _tensor(spec: InputSpec, column: pa.ChunkedArray) -> NDArray[Any]:
    if spec.datatype == "BYTES":
        return np.array(column.to_pylist(), dtype=object)
    return column.to_numpy().astype(np.int64 if spec.datatype == "INT64" else np.float32)


def _fields(description: DatasetDescription) -> dict[str, Any]:
    return {name: getattr(description, name) for name in DatasetDescription.__dataclass_fields__}
