import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftwheel.contracts import InputSpec
from serving import columns
from serving.columns import IntegerColumn

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
        for how, values in use:
            add(column, how, values)
        given_ = [n for how, values in use if how != "missing" for n in values]
        for _ in range(2):  # reading narrows once
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
@pytest.mark.parametrize("count", [1, columns._AT_ONCE, 2 * columns._AT_ONCE + 1])
def test_many_are_narrowed_piece_by_piece(edge: int, name: str, count: int) -> None:
    column = IntegerColumn(SPEC)
    wide = np.arange(count) % 1000
    wide[-1] = edge
    column.add(wide.tobytes())
    read = column.values()
    assert read.dtype.name == name
    assert np.array_equal(read, wide)
