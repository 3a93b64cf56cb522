"""What one version answered in traffic, with its labels: the rows that the drift job cuts into windows.

All of it in Arrow until the end. A log has an id of 32 letters for each request, which as Python's strings would take more time
and memory than everything else that a decision needs.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from driftwheel.contracts import Arm, Signature
from driftwheel.log_layout import feedback_folder, predictions_folder
from driftwheel.predictions import FEEDBACK_SCHEMA, INPUT_PREFIX, OK, OUTPUT_PREFIX, ROW, ROWS, as_predictions
from monitoring.segments import read_segments
from monitoring.windows import LABEL

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

_KEY = ["prediction_id", ROW]


def read_traffic(
    log: Path, model: str, *, version: int, signature: Signature, since: str | None = None
) -> "pd.DataFrame":
    """The answered rows of a version, oldest first: ``at``, ``in_<input>``, ``out_<output>`` and ``label`` (NaN where there is
    none; of several the last that arrived).

    Not the rows of "recommend": those are the model's choice, not what it was asked. Not pinned ones: those are tests.

    Args:
        since: Neither rows nor labels from before, ISO 8601.
    """
    import pyarrow as pa

    columns = [INPUT_PREFIX + spec.name for spec in signature.inputs]
    columns += [OUTPUT_PREFIX + spec.name for spec in signature.outputs]
    table = _answered(predictions_folder(log, model, version), columns, since)
    if table is None:
        import pandas as pd

        return pd.DataFrame({"at": pd.to_datetime([], utc=True), LABEL: []})
    table = table.append_column(LABEL, _labels_of(table, _last_labels(feedback_folder(log), model, since)))
    table = table.sort_by([(name, "ascending") for name in ("at", *_KEY)]).drop_columns(_KEY)
    frame = table.to_pandas(split_blocks=True, self_destruct=True)
    pa.default_memory_pool().release_unused()  # what reading took stays with Arrow's allocator otherwise
    return frame


def _answered(folder: Path, columns: Sequence[str], since: str | None) -> "pa.Table | None":
    """A row for each prediction: its key, ``at`` and the columns that the log has."""
    import pyarrow.compute as pc

    told = ["kind", "code", "arm"]
    table = read_segments(folder, columns=["prediction_id", ROWS, "at", *told, *columns], since=since)
    if table is None:
        return None
    kinds, codes, arms = (set(table[name].unique().to_pylist()) for name in told)
    if (
        kinds != {"infer"} or codes != {OK} or Arm.PINNED in arms
    ):  # mostly there is nothing to leave out, and no copy to make
        asked = (pc.field("kind") == "infer") & (pc.field("code") == OK) & (pc.field("arm") != Arm.PINNED)
        table = table.filter(asked)
    return as_predictions(table.drop_columns(told))


def _last_labels(folder: Path, model: str, since: str | None) -> "pa.Table":
    """The last finite label of each row of any prediction: ``prediction_id``, ``row``, ``label``."""
    import pyarrow.compute as pc

    table = read_segments(folder, since=since)
    if table is None:
        table = FEEDBACK_SCHEMA.empty_table()
    kept = (pc.field("model") == model) & pc.field(LABEL).is_valid() & ~pc.field(LABEL).is_nan()
    table = table.filter(kept).sort_by("at").select([*_KEY, LABEL])  # a stable sort, as the log's order breaks ties
    last = table.group_by(_KEY, use_threads=False).aggregate([(LABEL, "last")])
    return last.rename_columns([*_KEY, LABEL])


def _labels_of(table: "pa.Table", labels: "pa.Table") -> "pa.ChunkedArray":
    """The label of each row of a table, in its order."""
    import numpy as np
    import pyarrow as pa

    keys = table.select(_KEY).append_column("position", pa.array(np.arange(table.num_rows)))
    return keys.join(labels, keys=_KEY, join_type="left outer").sort_by("position")[LABEL]
