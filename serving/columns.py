"""One column of many requests, in memory that is used over and over."""

import mmap
from array import array
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from driftwheel.contracts import Datatype, InputSpec, OutputSpec
from driftwheel.predictions import NARROW_INTEGERS
from serving.codec import NUMPY_TYPES, Column, Raw, text

_FIRST_BYTES = 2**14

_SMALL_BYTES = 512
"""Less is left where it is until the buffer is read: it holds up no memory to speak of."""

_LONG_IDLE = 100
"""Uses of a buffer, some ten seconds of little load: giving memory back and taking it anew costs more than copying to it."""

_MISSING = -1
"""The size of a column that a request does not have."""

_NARROW = tuple(np.dtype(str(one)) for one in NARROW_INTEGERS)

_AT_ONCE = 32_768
"""Integers that are narrowed at once: 256 KiB, which the processor's inner caches have room for."""


class Buffer:
    """Bytes one after the other. Emptied, it keeps its memory, unless most of that has long been of no use.

    The memory is the kernel's own pages: they grow without a copy, and are given back when the buffer is dropped, where an
    allocator would keep what a slow moment of the disk has piled up.
    """

    __slots__ = ("_idle", "_memory", "_pages", "_sizes", "_small", "_used")

    def __init__(self) -> None:
        self._pages = _new_pages(_FIRST_BYTES)
        self._memory = memoryview(self._pages)  # a view is copied into at once; others make a copy of their own first
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
            self._resize(max(end, 2 * len(self._memory)))
        self._memory[self._used : end] = content
        self._used = end

    def _resize(self, size: int) -> None:
        """Have ``size`` bytes, and keep what is in use."""
        self._memory.release()
        try:
            self._pages.resize(size)
        except (BufferError, SystemError):
            # Somebody still looks at what was read in place, or the kernel does not move pages.
            pages, old = _new_pages(size), memoryview(self._pages)
            pages[: self._used] = old[: self._used]
            self._pages = pages
        self._memory = memoryview(self._pages)

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
        self._used = 0
        if self._idle >= _LONG_IDLE and len(self._memory) > _FIRST_BYTES:
            self._resize(len(self._memory) // 2)
            self._idle = 0
        self._sizes = array("q")
        self._small.clear()


def _new_pages(size: int) -> mmap.mmap:
    return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


class NumberColumn(Buffer):
    """An input's or output's numbers, of many requests."""

    __slots__ = ("dtype", "name")

    def __init__(self, spec: InputSpec | OutputSpec) -> None:
        super().__init__()
        self.name = spec.name
        self.dtype = NUMPY_TYPES[spec.datatype]

    def values(self) -> NDArray[Any]:
        """All requests' numbers, in place as ``content`` is."""
        return np.frombuffer(self.content(), self.dtype)

    def add(self, column: Column | None) -> None:
        """Append one request's column, if it has one."""
        if isinstance(column, (bytes, memoryview)):
            self.append(column)
        elif column is None:
            self.skip()
        else:
            self.append(np.ascontiguousarray(column, self.dtype).data.cast("B"))


class IntegerColumn(NumberColumn):
    """An input's integers, of many requests. What is read of them has two, four or eight bytes, as all of them need: to
    write a byte costs more than to find out that it can be spared.

    They are narrowed where they lie, and when they are read: on the log's thread, without the interpreter's lock, and many at
    once.
    """

    __slots__ = ("_narrowed",)

    def __init__(self, spec: InputSpec | OutputSpec) -> None:
        super().__init__(spec)
        self._narrowed: np.dtype[Any] | None = None
        """What they have been narrowed to; None before."""

    def values(self) -> NDArray[Any]:
        """All requests' integers. Nothing may be appended afterwards until the column has been emptied."""
        wide = super().values()
        if self._narrowed is None:
            self._narrowed = _narrowest(wide)
            if self._narrowed != wide.dtype:
                _narrow(wide, self._narrowed)
        return wide.view(self._narrowed)[: len(wide)]

    def empty(self) -> None:
        super().empty()
        self._narrowed = None


def _narrowest(values: NDArray[np.int64]) -> np.dtype[Any]:
    """The smallest type that has room for all of them."""
    if not len(values):
        return _NARROW[0]
    if (largest := values.view("<u8").max()) < 2**63:  # none is negative: one look is enough
        return next((dtype for dtype in _NARROW if largest <= np.iinfo(dtype).max), values.dtype)
    low, high = values.min(), values.max()
    return next((one for one in _NARROW if np.iinfo(one).min <= low and high <= np.iinfo(one).max), values.dtype)


def _narrow(values: NDArray[np.int64], dtype: np.dtype[Any]) -> None:
    """Write all of them, in ``dtype``, to the beginning of the memory that they lie in."""
    narrow = values.view(dtype)
    for start in range(0, len(values), _AT_ONCE):
        end = min(start + _AT_ONCE, len(values))
        narrow[start:end] = values[start:end]  # where both overlap, numpy makes a copy first; so not all at once


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

_KINDS: dict[Datatype, type[GatheredColumn]] = {"INT64": IntegerColumn, "FP32": NumberColumn, "BYTES": TextColumn}


def columns_of(specs: Sequence[InputSpec] | Sequence[OutputSpec]) -> list[GatheredColumn]:
    """Empty ones, in the order of a signature's inputs or outputs."""
    return [_KINDS[spec.datatype](spec) for spec in specs]


def offsets_of(sizes: "Sequence[int] | NDArray[Any]") -> NDArray[np.int32]:
    """Where each of so many elements begins, and where the last one ends."""
    offsets = np.zeros(len(sizes) + 1, dtype=np.int32)
    np.cumsum(sizes, out=offsets[1:])
    return offsets
