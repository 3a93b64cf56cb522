"""The dataset that a version in service is made from: what was held out to evaluate it is learned from as well."""

import hashlib

import msgspec
import pandas as pd
import pyarrow as pa

from training.data.customers import write_customers
from training.data.dataset import (
    TITLES,
    Dataset,
    Split,
    describe_again,
    read_dataset,
    read_split,
    reference_split,
)
from training.data.ratings import write_ratings

_LEARNED: tuple[Split, ...] = ("train", "valid", "test")


def refit_dataset(dataset: Dataset, *, keep_test: bool = False) -> Dataset:
    """Join a dataset's splits into one training split, or find them joined; vocabularies, features and catalogue are
    those of all its rows. It lies beside the first.

    What drift is measured against stays held out (of customers, that is the test split), and so does live traffic.

    Args:
        keep_test: Keep the test split out as well: the same training as the version's, but it can still be measured.
    """
    held, learned = _held(dataset, keep_test=keep_test), _learned(dataset, keep_test=keep_test)
    digest = refit_fingerprint(dataset, keep_test=keep_test)
    folder = dataset.folder.with_name(digest[:16])
    if not folder.exists():
        splits = {"train": _joined(dataset, *learned), **{split: _joined(dataset, split) for split in sorted(held)}}
        if "live" in dataset.rows:
            splits["live"] = _joined(dataset, "live")
        rows = {name: len(split) for name, split in splits.items()}
        description = describe_again(dataset, fingerprint=digest, rows=rows)
        if dataset.task == "rating":
            about = pd.read_parquet(dataset.path(TITLES)).set_index("item_id")
            write_ratings(folder, description, splits, about)
        else:
            write_customers(folder, description, splits)
    return read_dataset(folder)


def refit_fingerprint(dataset: Dataset, *, keep_test: bool = False) -> str:
    """The fingerprint that ``refit_dataset`` gives; nothing is written for it."""
    learned = _learned(dataset, keep_test=keep_test)
    return hashlib.sha256(msgspec.json.encode(["refit", dataset.fingerprint, learned])).hexdigest()


def _held(dataset: Dataset, *, keep_test: bool) -> set[Split]:
    reference = reference_split(dataset)
    return {reference, "test"} if keep_test else {reference}


def _learned(dataset: Dataset, *, keep_test: bool) -> list[Split]:
    held = _held(dataset, keep_test=keep_test)
    return [split for split in _LEARNED if split not in held]


def _joined(dataset: Dataset, *splits: Split) -> pd.DataFrame:
    """Rows of splits, one after the other. A column that is missing throughout one split has no type there."""
    return pa.concat_tables([read_split(dataset, split) for split in splits], promote_options="permissive").to_pandas()
