"""How much a killed server had not written yet, as its own log tells."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from driftwheel.predictions import ROWS


def busiest(batches: Sequence[pa.RecordBatch], interval_s: float) -> int:
    """The most predictions that came within any ``interval_s`` seconds of a segment of predictions: what its writer can have
    held back when it was killed, if it was then no busier than ever before; 0 for other tables.
    """
    if not batches or not {"at", ROWS} <= set(batches[0].schema.names):
        return 0
    table = pa.Table.from_batches(batches)
    at_us = table["at"].cast(pa.int64()).to_numpy()
    order = np.argsort(at_us, kind="stable")
    at_us, rows = at_us[order], table[ROWS].to_numpy()[order].astype(np.int64)
    until = np.cumsum(rows)
    first = np.searchsorted(at_us, at_us - round(interval_s * 1e6), side="right")
    return int((until - (until - rows)[first]).max())
