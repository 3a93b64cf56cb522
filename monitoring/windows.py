"""Tables out of the prediction log: predictions in time order, labels joined to them, examples to learn from."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from driftwheel.contracts import Task
from driftwheel.log_layout import feedback_folder
from driftwheel.predictions import COMMON_FIELDS, FEEDBACK_SCHEMA, INPUT_PREFIX, ROW, ROWS, as_predictions
from monitoring.segments import read_segments

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    import pyarrow.compute as pc

LABEL = "label"
_ROW_KEY = ["prediction_id", ROW]


def read_predictions(
    log: Path,
    model: str,
    *,
    version: int | None = None,
    since: str | None = None,
    until: str | None = None,
    columns: Sequence[str] | None = None,
) -> "pd.DataFrame":
    """The predictions of a model with ``since <= at < until``, sorted by (at, prediction_id, row).

    Args:
        version: Only this version; None: all, and columns that a version lacks are missing in its rows.
        columns: Those to read besides prediction_id, row and at; None: all.

    Returns:
        The columns of ``driftwheel.predictions.prediction_schema`` and ``version``; of no rows, the common ones.
    """
    return _in_order(_read_table(log, model, version=version, since=since, until=until, columns=columns))


def _read_table(
    log: Path,
    model: str,
    *,
    version: int | None,
    since: str | None,
    until: str | None,
    columns: Sequence[str] | None,
) -> "pa.Table":
    import pyarrow as pa

    wanted = (
        None if columns is None else [*dict.fromkeys(["prediction_id", ROWS, "at", *(c for c in columns if c != ROW)])]
    )
    tables: list[pa.Table] = []
    for number, folder in _version_folders(log, model, version):
        table = read_segments(folder, columns=wanted, since=since, until=until)
        if table is not None:
            table = as_predictions(table)
            tables.append(table.append_column("version", pa.array([number] * table.num_rows, pa.int32())))
    if not tables:
        fields = [field for field in COMMON_FIELDS if wanted is None or field.name in wanted]
        tables = [pa.schema([*fields, pa.field(ROW, pa.int32()), pa.field("version", pa.int32())]).empty_table()]
    return pa.concat_tables(tables, promote_options="permissive")


def _names_its_inputs(table: "pa.Table") -> "pc.Expression":
    """All rows but those of "recommend" that lack an input: an empty recommendation is logged as one without an item."""
    import pyarrow as pa
    import pyarrow.compute as pc

    lacking = pc.scalar(False)
    for name in table.column_names:
        if name.startswith(INPUT_PREFIX):
            lacking = lacking | pc.field(name).is_null()
    return (pc.field("kind") != pa.scalar("recommend")) | ~lacking


def read_feedback(
    log: Path, model: str | None = None, *, since: str | None = None, until: str | None = None
) -> "pd.DataFrame":
    """Feedback that arrived with ``since <= at < until``, in order of arrival: prediction_id, row, at, label, model."""
    import pyarrow.compute as pc

    table = read_segments(feedback_folder(log), since=since, until=until)
    if table is None:
        table = FEEDBACK_SCHEMA.empty_table()
    if model is not None:
        table = table.filter(pc.field("model") == model)
    # Stable, so that of two labels with one time the one written later stays later.
    return table.to_pandas().sort_values("at", kind="stable", ignore_index=True)


def with_labels(predictions: "pd.DataFrame", feedback: "pd.DataFrame") -> "pd.DataFrame":
    """The predictions with a column ``label`` (NaN where there is none), in their order and number.

    Every label counts once: of several for one row the last that arrived holds, and what names no row of
    ``predictions`` is left out (``unknown_feedback`` counts it).
    """
    last = _last_labels(feedback)[[*_ROW_KEY, LABEL]]
    known = predictions.drop(columns=LABEL, errors="ignore")
    return known.merge(last, on=_ROW_KEY, how="left", validate="m:1")


def unknown_feedback(predictions: "pd.DataFrame", feedback: "pd.DataFrame") -> int:
    """How many labelled rows in ``feedback`` name no row of ``predictions``."""
    joined = _last_labels(feedback)[_ROW_KEY].merge(predictions[_ROW_KEY].drop_duplicates(), on=_ROW_KEY)
    return len(_last_labels(feedback)) - len(joined)


def labelled_examples(
    log: Path, model: str, *, task: Task, since: str | None = None, until: str | None = None
) -> "pd.DataFrame":
    """What retraining learns from: every prediction of ``[since, until)`` that a label came back for, oldest first.

    Empty recommendations name no item and teach nothing, though somebody label them.

    Returns:
        The inputs under their own names, the label (``rating`` for the task "rating", else ``label``) and ``at``, the
        time of the prediction in seconds since the epoch.
    """
    table = _read_table(log, model, version=None, since=since, until=until, columns=None)
    # Before pandas sees it, which makes floats of a column of ids with gaps.
    predictions = _in_order(table.filter(_names_its_inputs(table)))
    labelled = with_labels(predictions, read_feedback(log, model)).dropna(subset=[LABEL])
    inputs = {name: name.removeprefix(INPUT_PREFIX) for name in labelled.columns if name.startswith(INPUT_PREFIX)}
    names = {**inputs, LABEL: "rating" if task == "rating" else LABEL, "at": "at"}
    seconds = labelled["at"].dt.as_unit("s").astype("int64")
    return labelled.assign(at=seconds)[list(names)].rename(columns=names).reset_index(drop=True)


def _version_folders(log: Path, model: str, version: int | None) -> list[tuple[int, Path]]:
    folder = log / "predictions" / model
    if version is not None:
        return [(version, folder / str(version))]
    if not folder.is_dir():
        return []
    return sorted((int(entry.name), entry) for entry in folder.iterdir() if entry.name.isdecimal())


def _in_order(table: "pa.Table") -> "pd.DataFrame":
    order = [("at", "ascending"), ("prediction_id", "ascending"), ("row", "ascending")]
    return table.sort_by(order).to_pandas()


def _last_labels(feedback: "pd.DataFrame") -> "pd.DataFrame":
    """One finite label for each row, the last that arrived; ``feedback`` is in order of arrival."""
    return feedback.dropna(subset=[LABEL]).drop_duplicates(_ROW_KEY, keep="last")
