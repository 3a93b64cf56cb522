"""The offline files: Parquet, one folder for each view, every file whole or absent.

::

    <home>/features/
      customers/<moment>.parquet   a snapshot for each build; the past stays, for training sets of the past (retention.py)
      users/history.parquet        one row for each day on which a user rated, all of it written anew each time
      items/history.parquet        likewise
"""

from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from driftwheel.errors import DataError
from driftwheel.files import replaced, shared_lock

CUSTOMERS, USERS, ITEMS = "customers", "users", "items"

_MOMENT = "%Y%m%dT%H%M%S"


def write_snapshot(folder: Path, rows: pd.DataFrame, at: datetime) -> Path:
    """Write customers as they were at a moment; the same moment again replaces what it had.

    Raises:
        DataError: Earlier snapshots have other columns.
    """
    path = folder / CUSTOMERS / f"{at.astimezone(UTC).strftime(_MOMENT)}.parquet"
    fresh = pa.Schema.from_pandas(rows, preserve_index=False)
    before = [earlier for earlier in snapshots(folder) if earlier != path]
    if before and (schema := pq.read_schema(before[-1]).remove_metadata()) != fresh.remove_metadata():
        changed = {*_columns(schema)} ^ {*_columns(fresh)}
        shown = ", ".join(sorted({name for name, _ in changed})) or "their order"
        raise DataError(
            f"the customers' columns differ from those of {before[-1]}: {shown}",
            hint=f"move {folder / CUSTOMERS} away to begin a new history, then `driftwheel features build` again",
        )
    _write(path, rows)
    return path


def write_history(folder: Path, view: str, rows: pd.DataFrame) -> Path:
    """Write all that was known of users or items."""
    path = folder / view / "history.parquet"
    _write(path, rows)
    return path


def snapshots(folder: Path) -> list[Path]:
    """The snapshots of customers, oldest first."""
    return sorted((folder / CUSTOMERS).glob("[0-9]*.parquet"))


def snapshot_moment(path: Path) -> datetime | None:
    """When the customers of a snapshot were so; None of a file that ``write_snapshot`` did not name."""
    try:
        return datetime.strptime(path.stem, _MOMENT).replace(tzinfo=UTC)
    except ValueError:
        return None


def snapshots_lock(folder: Path) -> Path:
    """What those who read the snapshots hold together, and who deletes some holds alone."""
    return folder / "snapshots.lock"


def reading(folder: Path) -> AbstractContextManager[None]:
    """Keep the snapshots that are there for as long as the block reads them."""
    return shared_lock(snapshots_lock(folder))


def newest_snapshot(folder: Path) -> Path:
    """The newest snapshot of customers.

    Raises:
        DataError: There is none.
    """
    if not (found := snapshots(folder)):
        raise DataError(f"no features of customers under {folder}", hint="driftwheel features build writes them")
    return found[-1]


def view_schema(folder: Path, view: str) -> pa.Schema:
    """The columns of a view's files.

    Raises:
        DataError: There are none.
    """
    path = newest_snapshot(folder) if view == CUSTOMERS else folder / view / "history.parquet"
    if not path.exists():
        raise DataError(f"no features of {view} under {folder}", hint="driftwheel features build writes them")
    return pq.read_schema(path)


def _write(path: Path, rows: pd.DataFrame) -> None:
    with replaced(path) as temporary:
        rows.to_parquet(temporary, index=False)


def _columns(schema: pa.Schema) -> list[tuple[str, str]]:
    return [(field.name, str(field.type)) for field in schema]
