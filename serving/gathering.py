"""Requests of one kind, gathered column by column until the log takes them.

A request leaves no object behind: its bytes are copied to the end of a few buffers, which are used over and over. So the
memory that it took is free for the next one while it is still in the processor's cache, the garbage collector has nothing
to look at, and the log hands the buffers to Arrow as they are.
"""

from array import array
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from driftwheel.contracts import Datatype, InputSpec, OutputSpec, Signature
from serving.codec import NUMPY_TYPES, Column, Columns, Raw, text

_FIRST_BYTES = 2**14

_SMALL_BYTES = 512
"""Less is left where it is until the buffer is read: it holds up no memory to speak of."""

_LONG_IDLE = 100
"""Uses of a buffer, some ten seconds of little load: giving memory back and taking it anew costs more than copying to it."""

_MISSING = -1
"""The size of a column that a request does not have."""

_REQUEST_BYTES = 100
_BYTES: dict[Datatype, int] = {"INT64": 8, "FP32": 4, "BYTES": 80}
"""About what a request takes of memory, and each of its values."""

FACTS = ("at_us", "total_s", "queued_s", "rows")
"""What is kept of each request beside its id and its columns, in this order."""


class Buffer:
    """Bytes one after the other. Emptied, it keeps its memory, unless most of that has long been of no use."""

    __slots__ = ("_idle", "_memory", "_sizes", "_small", "_used")

    def __init__(self) -> None:
        self._memory = memoryview(
            bytearray(_FIRST_BYTES)
        )  # a view is copied into at once; a bytearray makes a copy of its own first
        self._used = 0
        self._sizes = array("q")
        self._small: list[Raw] = []
        """What came last and is not copied yet: many small things are copied faster together."""
        self._idle = 0
        """How often in a row it has been less than a quarter full."""

    def append(self, content: Raw) -> None:
        """Copy something to the end."""
        if len(content) < _SMALL_BYTES and type(content) is bytes:  # a view would hold up all that it lies within
            self._small.append(content)
            return
        self._settle()
        self._copy(content)
        self._sizes.append(len(content))

    def skip(self) -> None:
        """Say that something is missing here."""
        self._settle()
        self._sizes.append(_MISSING)

    def _settle(self) -> None:
        if self._small:
            self._sizes.extend(map(len, self._small))
            self._copy(b"".join(self._small))
            self._small.clear()

    def _copy(self, content: Raw) -> None:
        end = self._used + len(content)
        if end > len(self._memory):
            grown = memoryview(bytearray(max(end, 2 * len(self._memory))))
            grown[: self._used] = self._memory[: self._used]
            self._memory = grown
        self._memory[self._used : end] = content
        self._used = end

    def sizes(self) -> NDArray[np.int64]:
        """Bytes of each thing that was appended; negative for one that is missing."""
        self._settle()
        return np.array(self._sizes, dtype=np.int64)

    def content(self) -> memoryview:
        """All that was appended, in place: no longer valid once the buffer is emptied and used again."""
        self._settle()
        return self._memory[: self._used]

    def empty(self) -> None:
        """Forget the content."""
        self._idle = self._idle + 1 if self._used < len(self._memory) // 4 else 0
        if self._idle >= _LONG_IDLE and len(self._memory) > _FIRST_BYTES:
            self._memory, self._idle = memoryview(bytearray(len(self._memory) // 2)), 0
        self._used = 0
        self._sizes = array("q")
        self._small.clear()


class NumberColumn(Buffer):
    """An input's or output's numbers, of many requests."""

    __slots__ = ("dtype", "name")

    def __init__(self, spec: InputSpec | OutputSpec) -> None:
        super().__init__()
        self.name = spec.name
        self.dtype = NUMPY_TYPES[spec.datatype]

    def add(self, column: Column | None) -> None:
        """Append one request's column, if it has one."""
        if isinstance(column, (bytes, memoryview)):
            self.append(column)
        elif column is None:
            self.skip()
        else:
            self.append(np.ascontiguousarray(column, self.dtype).data.cast("B"))


class TextColumn:
    """An input's texts, of many requests."""

    __slots__ = ("name", "values")

    def __init__(self, spec: InputSpec | OutputSpec) -> None:
        self.name = spec.name
        self.values: list[list[str | None] | None] = []

    def add(self, column: Column | None) -> None:
        """Append one request's column, if it has one."""
        self.values.append(text(column) if isinstance(column, np.ndarray) else None)

    def empty(self) -> None:
        self.values = []


GatheredColumn = NumberColumn | TextColumn


class Gathered:
    """Requests of one signature."""

    def __init__(self, signature: Signature) -> None:
        self._row_bytes = sum(_BYTES[spec.datatype] for spec in (*signature.inputs, *signature.outputs))
        self.held_bytes = 0
        """About what the requests take of memory."""
        self.rows = 0
        """Of all requests together."""
        self.ids = Buffer()
        self._facts = array("d")
        self.inputs = _columns(signature.inputs)
        self.outputs = _columns(signature.outputs)

    def __len__(self) -> int:
        return len(self._facts) // len(FACTS)

    def append(
        self,
        prediction_id: str,
        at_us: int,
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
        self.ids.append(prediction_id.encode())
        self._facts.extend((at_us, total_s, queued_s, rows))
        for column in self.inputs:
            column.add(inputs.get(column.name))
        for column in self.outputs:
            column.add(None if outputs is None else outputs.get(column.name))

    def facts(self) -> NDArray[np.float64]:
        """A copy: a row for each request, a column for each of ``FACTS``."""
        return np.array(self._facts, dtype=np.float64).reshape(-1, len(FACTS))

    def empty(self) -> None:
        """Forget the requests, to gather others; what was read of them in place is no longer valid."""
        self.held_bytes = self.rows = 0
        self.ids.empty()
        self._facts = array("d")
        for column in (*self.inputs, *self.outputs):
            column.empty()


def _columns(specs: Sequence[InputSpec] | Sequence[OutputSpec]) -> list[GatheredColumn]:
    return [TextColumn(spec) if spec.datatype == "BYTES" else NumberColumn(spec) for spec in specs]


def offsets_of(sizes: "Sequence[int] | NDArray[Any]") -> NDArray[np.int32]:
    """Where each of so many elements begins, and where the last one ends."""
    offsets = np.zeros(len(sizes) + 1, dtype=np.int32)
    np.cumsum(sizes, out=offsets[1:])
    return offsets
