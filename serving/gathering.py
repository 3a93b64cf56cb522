"""Requests of one kind, gathered column by column until the log takes them.

A request leaves no object behind: its bytes are copied to the end of a few buffers, which are used over and over. So the
memory that it took is free for the next one while it is still in the processor's cache, the garbage collector has nothing
to look at, and the log hands the buffers to Arrow as they are.
"""

import struct

import numpy as np
from numpy.typing import NDArray

from driftwheel.contracts import Datatype, Signature
from serving.codec import Columns
from serving.columns import Buffer, columns_of

_REQUEST_BYTES = 100
_BYTES: dict[Datatype, int] = {"INT64": 8, "FP32": 4, "BYTES": 80}
"""About what a request takes of memory, and each of its values."""

FACTS = ("at_us", "total_s", "queued_s", "rows")
"""What is kept of each request beside its id and its columns, in this order."""

_FACTS = struct.Struct(f"{len(FACTS)}d")
"""Packed and added to bytes, they cost a third of what it takes to extend an array of numbers."""


class Gathered:
    """Requests of one signature."""

    def __init__(self, signature: Signature) -> None:
        self._row_bytes = sum(_BYTES[spec.datatype] for spec in (*signature.inputs, *signature.outputs))
        self.held_bytes = 0
        """About what the requests take of memory."""
        self.rows = 0
        """Of all requests together."""
        self.ids = Buffer()
        self._facts = bytearray()
        self.inputs = columns_of(signature.inputs)
        self.outputs = columns_of(signature.outputs)
        # Looked up once, and not for each request.
        self._add_inputs = [(column.name, column.add) for column in self.inputs]
        self._add_outputs = [(column.name, column.add) for column in self.outputs]

    def __len__(self) -> int:
        return len(self._facts) // _FACTS.size

    def append(
        self,
        prediction_id: str,
        at_us: float,
        total_s: float,
        queued_s: float,
        rows: int,
        inputs: Columns,
        outputs: Columns | None,
    ) -> None:
        """Take one request.

        Args:
            at_us: Microseconds since the epoch.
            outputs: None where the model failed.
        """
        self.held_bytes += _REQUEST_BYTES + rows * self._row_bytes
        self.rows += rows
        self.ids.append_small(prediction_id.encode())
        self._facts += _FACTS.pack(at_us, total_s, queued_s, rows)
        for name, add in self._add_inputs:
            add(inputs.get(name))
        for name, add in self._add_outputs:
            add(None if outputs is None else outputs.get(name))

    def facts(self) -> NDArray[np.float64]:
        """A copy: a row for each request, a column for each of ``FACTS``."""
        return np.array(np.frombuffer(self._facts, dtype=np.float64)).reshape(-1, len(FACTS))

    def empty(self) -> None:
        """Forget the requests, to gather others; what was read of them in place is no longer valid."""
        self.held_bytes = self.rows = 0
        self.ids.empty()
        self._facts = bytearray()
        for column in (*self.inputs, *self.outputs):
            column.empty()
