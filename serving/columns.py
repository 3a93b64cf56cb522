"""One column of many requests, in memory that is used over and over."""

import mmap
from array import array
from collections.abc import Callable, Sequence
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

_WIDTHS = (*(np.dtype(str(one)) for one in NARROW_INTEGERS), np.dtype(np.int64))
_MOST = [int(np.iinfo(one).max) for one in _WIDTHS]
"""What each of them has room for."""

_STAGE_BYTES = 2**16
"""Integers that are narrowed together: much of numpy's cost is the same for few, and the inner caches have room for these."""

_NO_STAGE = memoryview(b"")


class Buffer:
    """Bytes one after the other. Emptied, it keeps its memory, unless most of that has long been of no use.

    The memory is the kernel's own pages: they grow without a copy, and are given back when the buffer is dropped, where an
    allocator would keep what a slow moment of the disk has piled up.
    """

    __slots__ = ("_idle", "_memory", "_pages", "_sizes", "_small", "_used", "append_small")

    def __init__(self) -> None:
        self._pages = _new_pages(_FIRST_BYTES)
        self._memory = memoryview(self._pages)  # a view is copied into at once; others make a copy of their own first
        self._used = 0
        self._sizes = array("q")
        self._small: list[Raw] = []
        """What came last and is not copied yet: many small things are copied faster together."""
        self.append_small: Callable[[bytes], None] = self._small.append
        """``append`` for a few hundred bytes at most, without its looking."""
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
        if type(column) is bytes and len(column) < _SMALL_BYTES:
            self.append_small(column)
        elif isinstance(column, (bytes, memoryview)):
            self.append(column)
        elif column is None:
            self.skip()
        else:
            self.append(np.ascontiguousarray(column, self.dtype).data.cast("B"))


class IntegerColumn(NumberColumn):
    """An input's integers, of many requests, in two, four or eight bytes each, as all of them need.

    They are laid on a stage that stays in the processor's cache, and narrowed from there when it is full: many at once, as
    numpy likes it. So what goes out to memory, and is read again for the log, is a quarter or half of what came.
    """

    __slots__ = ("_narrow", "_stage", "_staged", "_wide")

    def __init__(self, spec: InputSpec | OutputSpec) -> None:
        super().__init__(spec)
        self._narrow = 0
        """What the buffer's integers have been narrowed to, as a place in ``_WIDTHS``."""
        self._stage = _NO_STAGE
        self._wide = np.frombuffer(_NO_STAGE, self.dtype)
        """The stage's integers."""
        self._staged = 0
        """Bytes on the stage."""

    def content(self) -> memoryview:
        """See ``Buffer.content``; narrowed."""
        self._settle()
        self._clear_stage()
        return self._memory[: self._used]

    def values(self) -> NDArray[Any]:
        """All requests' integers, in place as ``content`` is, and as narrow as all of them fit."""
        content = self.content()
        return np.frombuffer(content, _WIDTHS[self._narrow])

    def empty(self) -> None:
        super().empty()
        self._narrow = self._staged = 0

    def _copy(self, content: Raw) -> None:
        end = self._staged + len(content)
        if end > _STAGE_BYTES:
            self._clear_stage()
            if len(content) > _STAGE_BYTES // 2:
                self._take(np.frombuffer(content, self.dtype))
                return
            end = len(content)
        if not self._stage:
            self._stage = memoryview(bytearray(_STAGE_BYTES))
            self._wide = np.frombuffer(self._stage, self.dtype)
        self._stage[self._staged : end] = content
        self._staged = end

    def _clear_stage(self) -> None:
        if self._staged:
            self._take(self._wide[: self._staged // self.dtype.itemsize])
            self._staged = 0

    def _take(self, wide: NDArray[np.int64]) -> None:
        """Narrow integers to the end of the buffer."""
        needed = _narrowest(wide)
        if needed > self._narrow:
            before = self._memory[: self._used].tobytes()
            self._used = 0
            held, self._narrow = np.frombuffer(before, _WIDTHS[self._narrow]), needed
            self._put(held)
        self._put(wide)

    def _put(self, values: NDArray[np.signedinteger[Any]]) -> None:
        width = _WIDTHS[self._narrow]
        end = self._used + len(values) * width.itemsize
        if end > len(self._memory):
            self._resize(max(end, 2 * len(self._memory)))
        np.frombuffer(self._memory, width, len(values), self._used)[:] = values
        self._used = end


def _narrowest(values: NDArray[np.int64]) -> int:
    """The first of ``_WIDTHS`` that has room for all of them."""
    if not len(values):
        return 0
    largest = int(values.view("<u8").max())
    if largest > _MOST[-1]:  # some are negative
        largest = max(int(values.max()), -1 - int(values.min()))
    return next(place for place, most in enumerate(_MOST) if largest <= most)


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
