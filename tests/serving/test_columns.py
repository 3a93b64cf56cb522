import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftwheel.contracts import InputSpec
from serving import columns
from serving.columns import Buffer, IntegerColumn

SPEC = InputSpec(name="user_id", datatype="INT64", role="id", graph_input="user_id")

NEAR = [edge + side for bits in (15, 31) for edge in (-(2**bits), 2**bits) for side in (-1, 0, 1)]

integers = st.one_of(
    st.integers(-5, 300), st.sampled_from(NEAR), st.integers(-(2**31), 2**31 - 1), st.integers(-(2**63), 2**63 - 1)
)
requests = st.lists(st.tuples(st.sampled_from(["bytes", "view", "array", "missing"]), st.lists(integers, max_size=90)))


def add(column: IntegerColumn, how: str, values: list[int]) -> None:
    wide = np.array(values, np.int64)
    forms = {
        "bytes": wide.tobytes(),
        "view": memoryview(b"\0" + wide.tobytes())[1:],
        "array": wide[::-1].copy()[::-1],
        "missing": None,
    }
    column.add(forms[how])


def narrowest(values: list[int]) -> str:
    return next(
        name for name in ("int16", "int32", "int64") if all(n == np.int64(n).astype(name) for n in values)
    )  # fmt: skip


@given(st.lists(requests, min_size=1, max_size=3))
def test_integers_come_back_as_narrow_as_they_fit(uses) -> None:
    column = IntegerColumn(SPEC)
    for use in uses:
        for number, (how, values) in enumerate(use):
            add(column, how, values)
            if number == len(use) // 2:
                column.values()  # reading does not end the gathering
        given_ = [n for how, values in use if how != "missing" for n in values]
        read = column.values()
        assert (read.tolist(), read.dtype.name) == (given_, narrowest(given_))
        sizes = [-1 if how == "missing" else 8 * len(values) for how, values in use]
        assert column.sizes().tolist() == sizes
        column.empty()


@pytest.mark.parametrize(
    ("edge", "name"),
    [
        (2**15 - 1, "int16"),
        (-(2**15), "int16"),
        (2**15, "int32"),
        (-(2**15) - 1, "int32"),
        (2**31 - 1, "int32"),
        (-(2**31), "int32"),
        (2**31, "int64"),
        (-(2**31) - 1, "int64"),
        (2**63 - 1, "int64"),
        (-(2**63), "int64"),
    ],
)
@pytest.mark.parametrize("count", [1, 2000, columns._STAGE_BYTES // 8, 70_000])
@pytest.mark.parametrize("requests", [1, 9, 40])
def test_many_are_narrowed_together(edge: int, name: str, count: int, requests: int) -> None:
    column = IntegerColumn(SPEC)
    wide = np.arange(count) % 1000
    for _ in range(requests - 1):
        column.add(wide.tobytes())
    wide[-1] = edge
    column.add(wide.tobytes())
    read = column.values()
    assert read.dtype.name == name
    assert np.array_equal(read, np.concatenate([*[np.arange(count) % 1000] * (requests - 1), wide]))


def test_who_still_reads_an_emptied_buffer_keeps_its_memory_when_that_grows() -> None:
    buffer = Buffer()
    buffer.append(b"a" * 1000)
    read = buffer.content()
    buffer.empty()
    buffer.append(b"b" * 10_000)
    buffer.append(b"c" * 2**20)
    assert bytes(buffer.content()) == b"b" * 10_000 + b"c" * 2**20
    assert bytes(read) == b"b" * 1000  # its pages, written to once more before the buffer moved on to others


def test_a_buffer_that_is_long_little_used_gives_memory_back() -> None:
    buffer = Buffer()
    buffer.append(b"x" * 2**22)
    assert resident(buffer) >= 2**22
    for _ in range(2000):
        buffer.empty()
        buffer.append(b"y" * 1000)
    assert bytes(buffer.content()) == b"y" * 1000
    assert resident(buffer) < 2**20


def resident(buffer: Buffer) -> int:
    """Bytes of memory that it has."""
    return len(buffer._memory)  # pyright: ignore[reportPrivateUsage]
