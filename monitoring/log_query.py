"""SQL over the prediction log: DuckDB reads sealed segments where they lie, and gets what is not sealed yet as tables.

A query can read the log and nothing besides: no other file, no network, no extension; and it writes nothing.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from driftwheel.errors import ConfigurationError, DataError, NotFoundError
from driftwheel.log_layout import feedback_folder, shadow_log
from driftwheel.predictions import COMMON_FIELDS, FEEDBACK_SCHEMA, ROW, ROWS
from monitoring.segments import sealed_and_rest

_SQL_TYPES = {"string": "VARCHAR", "int32": "INTEGER", "float": "FLOAT", "timestamp[us, tz=UTC]": "TIMESTAMPTZ"}

_PREDICTIONS = (
    pa.field("model", pa.string()),
    pa.field("version", pa.int32()),
    *COMMON_FIELDS,
    pa.field(ROW, pa.int32()),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a query found."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    more: bool
    """Whether there are more rows than were asked for."""


def query_log(log: Path, sql: str, *, model: str | None = None, limit: int) -> Answer:
    """Run one SELECT over the log as it is now.

    Its views are ``predictions``, a row for each prediction of the traffic; ``shadow``, likewise of what candidates answered
    to copies; and ``feedback``, a row for each label, as often as it came. The first two have the columns of
    ``driftwheel.predictions.prediction_schema``, and ``model`` and ``version``; what a model lacks is null in its rows.

    Args:
        log: The log's root.
        model: Only this one; None: all that there are.
        limit: The most rows to return.

    Raises:
        ConfigurationError: The SQL cannot be run, or is not one SELECT.
        DataError: A segment cannot be read, or was deleted meanwhile.
        NotFoundError: The log has no predictions of ``model``.
    """
    if model is not None and model not in (known := _models(log)):
        raise NotFoundError(
            f"the log has no predictions of {model!r}; it has those of {', '.join(known) or 'no model'}"
        )
    with duckdb.connect(":memory:") as connection:
        try:
            _check(connection, sql)
            _close_off(connection, _make_views(connection, log, model))
            cursor = connection.execute(sql)
            columns = tuple(str(column[0]) for column in cursor.description or ())
            rows = cursor.fetchmany(limit + 1)
        except duckdb.IOException as error:
            raise DataError(f"the log cannot be read: {error}", hint="ask again, if it was deleted meanwhile") from None
        except duckdb.Error as error:
            raise ConfigurationError(f"the query cannot be run: {error}") from None
    return Answer(columns=columns, rows=tuple(rows[:limit]), more=len(rows) > limit)


def _check(connection: duckdb.DuckDBPyConnection, sql: str) -> None:
    """Refuse what is not one SELECT: other statements may write."""
    statements = connection.extract_statements(sql)
    if [one.type for one in statements] != [duckdb.StatementType.SELECT]:
        got = ", ".join(str(one.type).rpartition(".")[2] for one in statements) or "nothing"
        raise ConfigurationError(f"a query is one SELECT, got {got}")


def _close_off(connection: duckdb.DuckDBPyConnection, files: Iterable[Path]) -> None:
    """Leave the query these files, and no way to change that."""
    paths = ", ".join(_text(str(path)) for path in files)
    for setting in (f"allowed_paths = [{paths}]", "enable_external_access = false", "lock_configuration = true"):
        connection.execute(f"SET {setting}")


def _make_views(connection: duckdb.DuckDBPyConnection, log: Path, model: str | None) -> list[Path]:
    """Make the views; the files that they read."""
    for setting in ("TimeZone = 'UTC'", "python_enable_replacements = false", "temp_directory = ''"):
        connection.execute(f"SET {setting}")
    files: list[Path] = []
    for view, root in (("predictions", log), ("shadow", shadow_log(log))):
        parts = [_nothing(_PREDICTIONS)]
        for name, version, folder in _folders(root, model):
            for source, columns in _sources(connection, folder, files):
                constants = f"{_text(name)} AS model, {version} AS version"
                parts.append(f"SELECT {constants}, {', '.join(_unnested(columns))} FROM {source}")  # noqa: S608 (all quoted)
        connection.execute(f"CREATE VIEW {view} AS {' UNION ALL BY NAME '.join(parts)}")
    parts = [_nothing(FEEDBACK_SCHEMA)]
    parts += [f"FROM {source}" for source, _ in _sources(connection, feedback_folder(log), files)]
    which = "true" if model is None else f"model = {_text(model)}"
    connection.execute(f"CREATE VIEW feedback AS FROM ({' UNION ALL BY NAME '.join(parts)}) WHERE {which}")
    return files


def _sources(
    connection: duckdb.DuckDBPyConnection, folder: Path, files: list[Path]
) -> list[tuple[str, dict[str, pa.DataType]]]:
    """What a folder's rows come from, in SQL, and its columns; ``files`` gets those that are read."""
    sealed, rest = sealed_and_rest(folder)
    found: list[tuple[str, dict[str, pa.DataType]]] = []
    if sealed:
        paths = ", ".join(_text(str(path)) for path in sealed)
        columns = {field.name: field.type for schema in sealed.values() for field in schema}
        found.append((f"read_parquet([{paths}], union_by_name = true, hive_partitioning = false)", columns))
        files += sealed
    if rest is not None:
        name = f"unsealed_{len(connection.execute('FROM duckdb_views() WHERE NOT internal').fetchall())}"
        connection.register(name, rest)
        found.append((name, {field.name: field.type for field in rest.schema}))
    return found


def _unnested(columns: dict[str, pa.DataType]) -> list[str]:
    """A row for each prediction: lists that a request lacks are null, as DuckDB fills up what is shorter."""
    selected: list[str] = []
    for name, type_ in columns.items():
        if name == ROWS:
            selected.append(f"unnest(range({ROWS}))::INTEGER AS {_name(ROW)}")
        else:
            selected.append(f"unnest({_name(name)}) AS {_name(name)}" if pa.types.is_list(type_) else _name(name))
    return selected


def _nothing(fields: Iterable[pa.Field]) -> str:
    """No row, and the columns that are there in any case."""
    columns = ", ".join(f"NULL::{_SQL_TYPES[str(field.type)]} AS {_name(field.name)}" for field in fields)
    return f"SELECT {columns} WHERE false"


def _models(log: Path) -> Sequence[str]:
    return sorted({name for root in (log, shadow_log(log)) for name, _, _ in _folders(root, None)})


def _folders(root: Path, model: str | None) -> list[tuple[str, int, Path]]:
    """The model, version and folder of all that a log holds."""
    found = [(path.parent.name, path) for path in (root / "predictions").glob("*/*") if path.name.isdecimal()]
    return sorted((name, int(path.name), path) for name, path in found if model in (None, name))


def _text(value: str) -> str:
    """As a literal in SQL."""
    return "'" + value.replace("'", "''") + "'"


def _name(value: str) -> str:
    """As an identifier in SQL."""
    return '"' + value.replace('"', '""') + '"'
