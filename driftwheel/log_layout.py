"""Where the prediction and the feedback log lie, and what their files are called.

::

    <log>/predictions/<model>/<version>/   segments with the columns of ``predictions.request_schema``, a row for each request
    <log>/feedback/                        segments with the columns of ``predictions.FEEDBACK_SCHEMA``, a row for each label
    <log>/shadow/predictions/...           likewise: what candidates answered to copies of requests, under the copied one's id

A segment is ``<stamp>-<process>-<n>.arrows`` while its process appends record batches to it (an Arrow IPC stream; the
torn tail of a killed process is cut off by whoever reads it; a list's integers are of 16 or 32 bits where all of them fit),
and ``<same name>.parquet`` once it is sealed.
"""

from pathlib import Path

OPEN_SUFFIX = ".arrows"
SEALED_SUFFIX = ".parquet"

TORN_SUFFIX = ".torn"
"""What a stream with a torn tail is renamed to once its whole part is sealed; for people, no reader looks at it."""


def predictions_folder(log: Path, model: str, version: int) -> Path:
    """Where one version's prediction segments lie."""
    return log / "predictions" / model / str(version)


def shadow_log(log: Path) -> Path:
    """The root of what was answered in shadow: apart, for it is no part of the traffic."""
    return log / "shadow"


def feedback_folder(log: Path) -> Path:
    """Where feedback segments lie."""
    return log / "feedback"
