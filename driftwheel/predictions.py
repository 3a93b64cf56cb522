"""What the prediction log and the feedback log hold: the one agreement between the server and monitoring.

::

    <log>/predictions/<model>/<version>/   segments with the columns of ``prediction_schema``
    <log>/feedback/                        segments with the columns of ``FEEDBACK_SCHEMA``

A segment is ``<stamp>-<process>-<n>.arrows`` while its process appends record batches to it (an Arrow IPC stream; the
torn tail of a killed process is cut off by whoever reads it), and ``<same name>.parquet`` once it is sealed.
"""

from pathlib import Path

import pyarrow as pa

from driftwheel.contracts import Datatype, Signature

OPEN_SUFFIX = ".arrows"
SEALED_SUFFIX = ".parquet"

INPUT_PREFIX = "in_"
OUTPUT_PREFIX = "out_"

OK = "OK"
"""The ``code`` of an answered row. A row that the model failed on bears the transport's name for the failure, and has
no outputs."""

_ARROW: dict[Datatype, pa.DataType] = {"INT64": pa.int64(), "FP32": pa.float32(), "BYTES": pa.string()}

COMMON_FIELDS: tuple[pa.Field, ...] = (
    pa.field("prediction_id", pa.string()),  # one for each request; feedback names it together with the row
    pa.field("row", pa.int32()),  # position in the request
    pa.field("at", pa.timestamp("us", tz="UTC")),
    pa.field("arm", pa.string()),  # contracts.Arm
    pa.field("kind", pa.string()),  # "infer" or "recommend"
    pa.field("code", pa.string()),
    pa.field("latency_us", pa.int32()),  # of the whole request, the same in all its rows
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


def prediction_schema(signature: Signature) -> pa.Schema:
    """The columns of a version's prediction log: the common ones, ``in_<input>`` and ``out_<output>``."""
    inputs = [pa.field(INPUT_PREFIX + spec.name, _ARROW[spec.datatype]) for spec in signature.inputs]
    outputs = [pa.field(OUTPUT_PREFIX + spec.name, _ARROW[spec.datatype]) for spec in signature.outputs]
    return pa.schema([*COMMON_FIELDS, *inputs, *outputs])


def predictions_folder(log: Path, model: str, version: int) -> Path:
    """Where one version's prediction segments lie."""
    return log / "predictions" / model / str(version)


def feedback_folder(log: Path) -> Path:
    """Where feedback segments lie."""
    return log / "feedback"
