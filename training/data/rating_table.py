"""Ratings from a table of the outside world: canonical columns, checked values."""

from typing import Any

import numpy as np
import pandas as pd

from driftwheel.errors import DataError
from training.data.dataset import TRAIT_PREFIX
from training.data.sources import RatingsSource
from training.data.tables import (
    blank_to_missing,
    identifiers,
    is_text,
    numbers,
    packaged_table,
    raise_at_first,
    read_table,
    require_columns,
)

_PACKAGED = RatingsSource(user_column="userId", item_column="movieId", trait_columns=("genres", "year"))
_DEFAULT_TITLE = "title"


def rating_table(source: RatingsSource) -> pd.DataFrame:
    """What ``sources.read_ratings`` promises."""
    if source.path is None:
        columns, path, raw = _PACKAGED, "MovieLens (packaged)", packaged_table("dslabs", "movielens")
    else:
        columns, path, raw = source, source.path, read_table(source.path)
    require_columns(raw, _required(columns), path=path)
    _require_different(columns, path)
    table = _canonical(raw, columns, path)
    valid = _valid(table, source)
    kept = table[valid.pop("kept")].copy()
    dropped = {reason: int(rows.sum()) for reason, rows in valid.items() if rows.any()}
    if kept.empty:
        raise DataError(f"{path} has no valid rating in {len(raw)} rows; left out: {dropped or 'nothing'}")
    kept["user_id"], kept["item_id"] = identifiers(kept["user_id"]), identifiers(kept["item_id"])
    kept["at"] = kept["at"].astype("int64")
    kept.attrs["dropped"] = dropped
    return kept.reset_index(drop=True)


def _required(source: RatingsSource) -> dict[str, str]:
    flags = {
        source.user_column: "--user-column",
        source.item_column: "--item-column",
        source.rating_column: "--rating-column",
    }
    if source.time_column:
        flags[source.time_column] = "--time-column (empty for a table without times)"
    if source.title_column and source.title_column != _DEFAULT_TITLE:
        flags[source.title_column] = "--title-column"
    return flags | dict.fromkeys(source.trait_columns, "--trait-columns")


def _require_different(source: RatingsSource, path: str) -> None:
    flags: dict[str, str] = {}
    for column, flag in (
        (source.user_column, "--user-column"),
        (source.item_column, "--item-column"),
        (source.rating_column, "--rating-column"),
        (source.time_column, "--time-column"),
    ):
        if column and flags.setdefault(column, flag) != flag:
            raise DataError(
                f"{path}: column {column!r} is named by {flags[column]} and {flag}; expected different columns"
            )


def _canonical(raw: pd.DataFrame, source: RatingsSource, path: str) -> pd.DataFrame:
    table = pd.DataFrame(
        {
            "user_id": blank_to_missing(raw[source.user_column]),
            "item_id": blank_to_missing(raw[source.item_column]),
            "rating": numbers(
                raw[source.rating_column],
                source.rating_column,
                path=path,
                hint="fix or remove the row",
                keep_infinite=True,
            ),
            "at": times(raw[source.time_column], source.time_column, path=path)
            if source.time_column
            else np.arange(len(raw), dtype="float64"),
        }
    )
    if source.title_column and source.title_column in raw.columns:
        table["title"] = raw[source.title_column].astype("object").where(raw[source.title_column].notna(), None)
    for name in source.trait_columns:
        column = blank_to_missing(raw[name])
        table[TRAIT_PREFIX + name] = column if is_text(column) else numbers(column, name, path=path)
    return table


def _valid(table: pd.DataFrame, source: RatingsSource) -> dict[str, Any]:
    """Masks of rows by the first reason to leave them out, and ``kept``."""
    missing = table[["user_id", "item_id", "rating", "at"]].isna().any(axis=1)
    infinite = ~missing & np.isinf(table["rating"])
    outside = ~missing & ~infinite & ~table["rating"].between(source.rating_low, source.rating_high)
    kept = ~missing & ~infinite & ~outside
    return {"missing value": missing, "infinite rating": infinite, "rating out of range": outside, "kept": kept}


def times(column: pd.Series, name: str, *, path: str) -> pd.Series:
    """Whole seconds since the epoch, NaN where missing or infinite, from ISO 8601 text or epoch seconds, ms, us or ns.

    Raises:
        DataError: A value is neither.
    """
    cleaned = blank_to_missing(column)
    if is_text(cleaned):
        parsed = pd.to_numeric(cleaned, errors="coerce")
        if parsed.notna().sum() < cleaned.notna().sum() / 2:
            return _seconds(_parse_iso(cleaned, name, path))
        raise_at_first(cleaned[parsed.isna() & cleaned.notna()], name, "an epoch time", path=path)
        cleaned = parsed
    if pd.api.types.is_datetime64_any_dtype(cleaned):
        return _seconds(pd.to_datetime(cleaned, utc=True))
    finite = cleaned.astype("float64").replace([np.inf, -np.inf], np.nan)
    return (finite // _unit(finite)).astype("float64")


def _parse_iso(column: pd.Series, name: str, path: str) -> pd.Series:
    parsed = pd.to_datetime(column, utc=True, format="ISO8601", errors="coerce")
    raise_at_first(column[parsed.isna() & column.notna()], name, "an ISO 8601 or epoch time", path=path)
    return parsed


def _seconds(moments: pd.Series) -> pd.Series:
    epoch = pd.Timestamp(0, tz="UTC")
    return (moments - epoch).dt.total_seconds() // 1


def _unit(epochs: pd.Series) -> float:
    """Ticks a second, judged by size: 1e11 seconds are the year 5138, and as milliseconds 1973."""
    largest = epochs.abs().max()
    return next((unit for limit, unit in ((1e11, 1.0), (1e14, 1e3), (1e17, 1e6)) if largest < limit), 1e9)
