import numpy as np
import pytest

from driftwheel.errors import ModelFaultError
from serving.backends.buckets import bucket_for, fill, rows_of, zeros


@pytest.mark.parametrize(("rows", "bucket"), [(1, 1), (2, 8), (8, 8), (9, 64), (64, 64), (65, None)])
def test_the_smallest_bucket_that_holds_the_rows(rows: int, bucket: int | None) -> None:
    assert bucket_for(rows, [1, 8, 64]) == bucket


def test_without_buckets_there_is_none() -> None:
    assert bucket_for(1, []) is None


def test_what_is_below_the_rows_is_zero_whatever_was_there() -> None:
    buffers = {"x": np.full((4, 2), 7.0, dtype=np.float32)}
    fill(buffers, {"x": np.ones((3, 2), dtype=np.float32)}, 3)
    np.testing.assert_array_equal(buffers["x"], [[1, 1], [1, 1], [1, 1], [0, 0]])


@pytest.mark.parametrize(
    ("feed", "says"),
    [
        ({}, "takes x, got "),
        ({"y": np.zeros((1, 2), dtype=np.float32)}, "takes x, got y"),
        ({"x": np.zeros((1, 3), dtype=np.float32)}, r"'x' must be float32 \['rows', 2\], got float32 \[1, 3\]"),
        ({"x": np.zeros((1, 2))}, "must be float32 .*, got float64"),
    ],
)
def test_a_feed_that_does_not_fit_the_buffers(feed: dict, says: str) -> None:
    with pytest.raises(ModelFaultError, match=says):
        fill({"x": np.zeros((4, 2), dtype=np.float32)}, feed, 1)


def test_rows_are_those_that_all_arrays_share() -> None:
    assert rows_of({"a": np.zeros(3), "b": np.zeros((3, 9))}) == 3
    for feed in ({"a": np.zeros(3), "b": np.zeros(2)}, {"a": np.array(1.0)}, {}):
        with pytest.raises(ModelFaultError, match="same number of rows"):
            rows_of(feed)


def test_buffers_need_all_dimensions_but_the_rows() -> None:
    made = zeros({"x": (["n", 2], np.dtype(np.float32))}, 4)
    assert (made["x"].shape, made["x"].dtype) == ((4, 2), np.dtype(np.float32))
    with pytest.raises(ModelFaultError, match="'x' has a free dimension"):
        zeros({"x": (["n", "m"], np.dtype(np.float32))}, 4)
