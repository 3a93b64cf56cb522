"""Customers from a table of the outside world: features told apart, a label of two classes."""

import pandas as pd

from driftwheel.errors import DataError
from training.data.sources import CustomersSource
from training.data.tables import blank_to_missing, identifiers, is_text, numbers, packaged_table, read_table

LABEL = "churned"
CUSTOMER_ID = "customer_id"

_MAX_CATEGORIES = 1000
"""A category with more values than this, or with more than half as many as there are rows, is an identifier."""


def customer_table(source: CustomersSource) -> pd.DataFrame:
    """What ``sources.read_customers`` promises."""
    if source.path is None:
        path, raw = "Telco churn (packaged)", packaged_table("modeldata", "wa_churn")
        id_column: str | None = "rownames"
    else:
        path, raw, id_column = source.path, read_table(source.path), source.id_column
    _require_named(raw, source, id_column, path)
    labels = blank_to_missing(raw[source.label_column])
    kept = labels.notna()
    if not kept.any():
        raise DataError(f"{path} has no valid customer: none of its {len(raw)} rows has a {source.label_column!r}")
    table = _features(raw, source, id_column, path)
    table[LABEL] = _binary(labels[kept], source, path).reindex(raw.index)
    if id_column:
        table[CUSTOMER_ID] = identifiers(raw[id_column])
    table = table[kept].reset_index(drop=True)
    table.attrs["dropped"] = {"missing label": int((~kept).sum())} if not kept.all() else {}
    return table


def feature_columns(table: pd.DataFrame) -> list[str]:
    """The features of what ``customer_table`` returned."""
    return [str(column) for column in table.columns if column not in {LABEL, CUSTOMER_ID}]


def _require_named(raw: pd.DataFrame, source: CustomersSource, id_column: str | None, path: str) -> None:
    named = [
        (source.label_column, "--label-column"),
        *([(id_column, "--id-column")] if id_column else []),
        *((column, "--categorical") for column in source.categorical),
        *((column, "--numeric") for column in source.numeric),
        *((column, "--drop") for column in source.drop),
    ]
    for column, flag in named:
        if column not in raw.columns:
            there = ", ".join(map(str, raw.columns))
            raise DataError(f"{path} has no column {column!r}; it has: {there}", hint=f"name yours with {flag}")
    if twice := set(source.categorical) & set(source.numeric):
        raise DataError(f"{path}: column {min(twice)!r} is named by --categorical and --numeric; expected one of them")
    if source.label_column in source.drop:
        raise DataError(
            f"{path}: column {source.label_column!r} is named by --label-column and --drop; expected one of them"
        )


def _features(raw: pd.DataFrame, source: CustomersSource, id_column: str | None, path: str) -> pd.DataFrame:
    left_out = {source.label_column, id_column, *source.drop}
    names = [str(column) for column in raw.columns if column not in left_out]
    if not names:
        raise DataError(f"{path} has no feature column beside {source.label_column!r}")
    if clash := {LABEL, CUSTOMER_ID} & set(names):
        raise DataError(f"{path}: the feature name {min(clash)!r} is taken", hint="rename the column, or --drop it")
    return pd.DataFrame({name: _feature(raw[name], name, source, path) for name in names}, index=raw.index)


def _feature(column: pd.Series, name: str, source: CustomersSource, path: str) -> pd.Series:
    if name in source.numeric or (name not in source.categorical and _mostly_numbers(column)):
        return numbers(column, name, path=path, hint=f"fix or remove the row, or pass --categorical {name}")
    return _category(column, name, path)


def _mostly_numbers(column: pd.Series) -> bool:
    """Whether at least half of the values present are numbers: stray text in such a column is a fault, no category."""
    if pd.api.types.is_bool_dtype(column):
        return False
    if pd.api.types.is_numeric_dtype(column):
        return True
    present = blank_to_missing(column).dropna()
    return present.empty or bool(pd.to_numeric(present, errors="coerce").notna().mean() >= 0.5)


def _category(column: pd.Series, name: str, path: str) -> pd.Series:
    text = _as_text(column)
    if (distinct := text.nunique()) > min(_MAX_CATEGORIES, max(len(text) // 2, 2)):
        raise DataError(
            f"{path}: column {name!r} has {distinct} different texts in {len(text)} rows and looks like an identifier",
            hint=f"pass --id-column {name} or --drop {name}",
        )
    return text


def _as_text(column: pd.Series) -> pd.Series:
    cleaned = blank_to_missing(column)
    if not is_text(cleaned) and not pd.api.types.is_bool_dtype(cleaned):
        cleaned = cleaned.map("{:g}".format, na_action="ignore")
    return cleaned.map(str, na_action="ignore").astype("object").where(cleaned.notna(), None)


def _binary(labels: pd.Series, source: CustomersSource, path: str) -> pd.Series:
    text = _as_text(labels)
    values = sorted(text.unique())
    shown = ", ".join(map(repr, values[:10]))
    if source.positive_label not in values:
        raise DataError(
            f"{path}: label column {source.label_column!r} has no {source.positive_label!r}; it has: {shown}",
            hint="name the label of the customers who left with --positive-label",
        )
    if len(values) != 2:
        raise DataError(f"{path}: label column {source.label_column!r} must have two classes; it has: {shown}")
    return (text == source.positive_label).astype("float64")
