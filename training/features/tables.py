"""Rows of features with the moment from which they were known: what the offline files hold."""

from datetime import datetime

import numpy as np
import pandas as pd

from driftwheel.errors import DataError
from driftwheel.feature_store import CUSTOMER_ID
from training.data.customer_table import LABEL, feature_columns

KNOWN_AT = "event_timestamp"
"""When a row became known: what happens at that moment or later may be answered with it."""

_TAKEN = {KNOWN_AT, "created_timestamp", "entity_df"}
_DAY_S = 86_400


def customer_rows(table: pd.DataFrame, at: datetime) -> pd.DataFrame:
    """Customers as they were at a moment.

    Args:
        table: What ``read_customers`` gave, with ids.

    Returns:
        ``customer_id`` (text), every feature (text with None, or float32 with NaN, where missing; just what training and
        serving compute with), ``churned``, and ``event_timestamp``, which is ``at``.

    Raises:
        DataError: There are no ids, one comes twice, or a feature has a name that the feature store needs.
    """
    if CUSTOMER_ID not in table.columns:
        raise DataError("features are looked up by the customer's id", hint="name its column with --id-column")
    features = feature_columns(table)
    if taken := sorted(_TAKEN & set(features)):
        raise DataError(f"the feature name {taken[0]!r} is taken", hint=f"rename the column, or --drop {taken[0]}")
    ids = table[CUSTOMER_ID].astype(str)
    if (again := ids[ids.duplicated()]).size:
        raise DataError(f"customer {again.iloc[0]!r} comes twice, in row {again.index[0] + 1} for the second time")
    numbers = {name: "float32" for name in features if table[name].dtype != object}
    rows = table[[*features, LABEL]].astype(numbers)
    rows.insert(0, CUSTOMER_ID, ids)
    return rows.assign(**{KNOWN_AT: pd.Series(pd.Timestamp(at), index=rows.index).dt.as_unit("us")})


def aggregate_rows(ratings: pd.DataFrame, by: str, other: str, prefix: str) -> pd.DataFrame:
    """What was known of each user (or item) after each day on which it rated (or was rated).

    A row is known a second after the last rating that it counts, so that no rating is ever answered with itself. Of two
    ratings of one item by one user the newer counts from its time on, the older until then.

    Args:
        ratings: Columns ``user_id, item_id, rating, at`` (epoch seconds).
        by: The column of the key; ``other`` is the one that it rated, or that rated it.
        prefix: What the features' names begin with.

    Returns:
        ``by`` (text), ``<prefix>avg_rating`` (float64), ``<prefix>rating_count`` (int64) and ``event_timestamp``, by key
        and time.
    """
    rows = ratings.sort_values("at", kind="stable", ignore_index=True)
    before = rows.groupby([by, other])["rating"].shift()
    changes = pd.DataFrame({"sum": rows["rating"] - before.fillna(0.0), "count": before.isna().astype("int64")})
    totals = changes.groupby(rows[by]).cumsum()
    table = pd.DataFrame(
        {
            by: rows[by].astype(str),
            f"{prefix}avg_rating": totals["sum"] / totals["count"],
            f"{prefix}rating_count": totals["count"],
            KNOWN_AT: pd.to_datetime(rows["at"].astype(np.int64) + 1, unit="s", utc=True).dt.as_unit("us"),
        }
    )
    days = pd.DataFrame({by: table[by], "day": rows["at"] // _DAY_S})
    return table[~days.duplicated(keep="last")].sort_values([by, KNOWN_AT], ignore_index=True)
