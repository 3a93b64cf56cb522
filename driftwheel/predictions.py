"""What the prediction log and the feedback log hold: the one agreement between the server and monitoring. (``log_layout`` says
where they lie.)

Inputs and outputs of a request are lists, just as they came and went: a thousand pairs cost the server one copy of their
bytes, and not a thousand rows. Readers want predictions; ``as_predictions`` makes them.

An open segment may hold a list's integers in fewer bytes than ``request_schema`` says, where they fit; ``widened`` is what
readers see.
"""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from driftwheel.contracts import Datatype, Signature

INPUT_PREFIX = "in_"
OUTPUT_PREFIX = "out_"

OK = "OK"
"""The ``code`` of an answered row. A row that the model failed on bears the transport's name for the failure, and has
no outputs."""

NARROW_INTEGERS = (pa.int16(), pa.int32())
"""What integers of an open segment may be stored as, the narrowest first; else they are of 64 bits."""

_ARROW: dict[Datatype, pa.DataType] = {"INT64": pa.int64(), "FP32": pa.float32(), "BYTES": pa.string()}

ROWS = "rows"
ROW = "row"
"""The position of a prediction in its request: not stored, ``as_predictions`` counts it."""

COMMON_FIELDS: tuple[pa.Field, ...] = (
    pa.field("prediction_id", pa.string()),  # one for each request; feedback names it together with the row
    pa.field("at", pa.timestamp("us", tz="UTC")),
    pa.field("arm", pa.string()),  # contracts.Arm
    pa.field("kind", pa.string()),  # "infer" or "recommend"
    pa.field("code", pa.string()),
    pa.field("latency_us", pa.int32()),  # of the whole request
)

FEEDBACK_SCHEMA = pa.schema(
    [
        pa.field("prediction_id", pa.string()),
        pa.field("row", pa.int32()),
        pa.field("at", pa.timestamp("us", tz="UTC")),  # when it arrived
        pa.field("label", pa.float32()),
        pa.field("model", pa.string()),
    ]
)


def request_schema(signature: Signature) -> pa.Schema:
    """What is stored: the common fields, ``rows``, and a list for each ``in_<input>`` and ``out_<output>``.

    A list is null where the request has no such values: a failed one has no outputs.
    """
    inputs = [pa.field(INPUT_PREFIX + spec.name, pa.list_(_ARROW[spec.datatype])) for spec in signature.inputs]
    outputs = [pa.field(OUTPUT_PREFIX + spec.name, pa.list_(_ARROW[spec.datatype])) for spec in signature.outputs]
    return pa.schema([*COMMON_FIELDS, pa.field(ROWS, pa.int32()), *inputs, *outputs])


def prediction_schema(signature: Signature) -> pa.Schema:
    """What ``as_predictions`` makes of it: the common fields, ``row``, and a value for each input and output."""
    inputs = [pa.field(INPUT_PREFIX + spec.name, _ARROW[spec.datatype]) for spec in signature.inputs]
    outputs = [pa.field(OUTPUT_PREFIX + spec.name, _ARROW[spec.datatype]) for spec in signature.outputs]
    return pa.schema([*COMMON_FIELDS, pa.field(ROW, pa.int32()), *inputs, *outputs])


def widened(batch: pa.RecordBatch) -> pa.RecordBatch:
    """A batch read back from a segment, its inputs and outputs of the types that ``request_schema`` has."""
    schema = batch.schema
    for position, field in enumerate(schema):
        if pa.types.is_list(field.type) and field.type.value_type in NARROW_INTEGERS:
            schema = schema.set(position, field.with_type(pa.list_(pa.int64())))
    return batch if schema.equals(batch.schema) else batch.cast(schema)


def is_whole(batch: pa.RecordBatch) -> bool:
    """Whether a batch read back from a segment is one that was written: a power cut can leave a tail of the right length and
    the wrong content, and a wrong number of rows would become as many predictions.
    """
    try:
        batch.validate(full=True)
    except pa.ArrowException:
        return False
    if ROWS not in batch.schema.names:
        return True
    counts = batch.column(ROWS).to_numpy(zero_copy_only=False)
    told = np.zeros(len(counts), dtype=bool)
    for column in batch.columns:
        if pa.types.is_list(column.type):
            given = column.is_valid().to_numpy(zero_copy_only=False)
            lengths = np.diff(column.offsets.to_numpy())
            if (lengths[given] != counts[given]).any():
                return False
            told |= given
    # What has neither inputs nor outputs is one row: a request that failed, or a recommendation without items.
    return bool((counts[~told] == 1).all())


def as_predictions(requests: pa.Table) -> pa.Table:
    """One row for each prediction, in order, from a table that has ``rows`` and any other columns of a log.

    A null list becomes as many nulls as its request has rows.
    """
    counts = requests.column(ROWS).to_numpy().astype(np.int64)
    request = np.repeat(np.arange(len(counts)), counts)
    row = np.arange(len(request)) - np.repeat(np.cumsum(counts) - counts, counts)
    columns: dict[str, pa.Array | pa.ChunkedArray] = {}
    for name in requests.column_names:
        column = requests.column(name)
        if name == ROWS:
            columns[ROW] = pa.array(row, pa.int32())
        elif pa.types.is_list(column.type):
            columns[name] = _values(column.combine_chunks(), request, row)
        elif (counts == 1).all():
            columns[name] = column
        else:
            columns[name] = column.take(pa.array(request))
    return pa.table(columns)


def _values(lists: pa.ListArray, request: NDArray[np.int64], row: NDArray[np.int64]) -> pa.Array:
    # A table of no chunks combines to an array of none, and its offsets are empty.
    if not len(lists):
        return pa.nulls(0, lists.type.value_type)
    if not lists.null_count:
        return lists.flatten()  # every list is as long as its request has rows: they are in order already
    starts = lists.offsets.to_numpy()[:-1].astype(np.int64)
    missing = lists.is_null().to_numpy(zero_copy_only=False)[request]
    return lists.values.take(pa.array(np.where(missing, 0, starts[request] + row), mask=missing))
