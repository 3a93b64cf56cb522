"""The search against sorting everything."""

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from driftwheel.errors import BundleError
from serving.recommendation import screened, search
from serving.recommendation.product import Product, graph
from serving.recommendation.search import TopK


def sorted_by_score(
    items: NDArray[np.float32], user: NDArray[np.float32], k: int, excluded: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    scores = items[:, :-1].astype(np.float64) @ user.astype(np.float64) + items[:, -1]
    scores[excluded] = -np.inf
    best = np.argsort(-scores, kind="stable")[:k]
    best = best[np.isfinite(scores[best])]
    return best, scores[best]


@st.composite
def worlds(draw: st.DrawFn) -> tuple[NDArray[np.float32], NDArray[np.float32], list[int], list[NDArray[np.int64]]]:
    """Catalogue, users, how many each wants, what each has excluded."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    items, factors, users = draw(st.integers(1, 300)), draw(st.integers(1, 70)), draw(st.integers(1, 5))
    table = rng.standard_normal((items, factors + 1)).astype(np.float32)
    table[:, :-1] *= draw(st.sampled_from([0.0, 1e-3, 1.0, 30.0]))
    table[:, -1] *= draw(st.sampled_from([0.0, 0.1, 1.0, 100.0]))
    table[:, -1] += draw(st.sampled_from([0.0, 3.0, -50.0]))
    table[rng.random(items) < 0.1] *= draw(st.sampled_from([0.0, 1.0, 20.0]))
    vectors = rng.standard_normal((users, factors)).astype(np.float32) * draw(st.sampled_from([0.0, 1e-4, 1.0, 20.0]))
    if draw(st.booleans()):  # whole numbers add up without rounding, and tie
        table, vectors = np.rint(table.clip(-9, 9)), np.rint(vectors.clip(-9, 9))
    counts = draw(st.lists(st.integers(1, 40), min_size=users, max_size=users))
    excluded = [rng.integers(0, items, draw(st.integers(0, 2 * items))) for _ in range(users)]
    return table, vectors, counts, excluded


@pytest.mark.parametrize("scored_whole", [search._SCORED_WHOLE, 0])
@settings(max_examples=100, deadline=None)
@given(world=worlds())
def test_it_is_a_sort_of_everything(world, scored_whole: int):
    items, users, counts, excluded = world
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "_SCORED_WHOLE", scored_whole)
        found = TopK(items).search(users, counts, excluded)
    whole = (items == np.rint(items)).all() and (users == np.rint(users)).all()
    for user, count, banned, one in zip(users, counts, excluded, found, strict=True):
        rows, scores = sorted_by_score(items, user, count, banned)
        size = 1e-5 * (
            np.abs(scores).max(initial=0) + np.linalg.norm(items[:, :-1], axis=1).max() * np.linalg.norm(user)
        )
        np.testing.assert_allclose(one.scores, scores, rtol=0, atol=size)
        assert len(np.unique(one.rows)) == len(rows)
        assert not np.isin(one.rows, banned).any()
        if whole:
            np.testing.assert_array_equal(one.rows, rows)


@pytest.fixture
def catalogue() -> NDArray[np.float32]:
    """Several tiles, of which the last one is not full; a fifth of the items are alike."""
    rng = np.random.default_rng(5)
    items = rng.integers(-3, 4, (120_003, 9)).astype(np.float32)
    items[rng.random(len(items)) < 0.2] = items[0]
    return items


@pytest.mark.parametrize("threads", [1, 2])
def test_many_tiles_threads_and_users(catalogue: NDArray[np.float32], threads: int):
    rng = np.random.default_rng(6)
    users = rng.integers(-3, 4, (70, 8)).astype(np.float32)
    counts = rng.choice([1, 10, 500], len(users)).tolist()
    excluded = [sorted_by_score(catalogue, user, 50, np.empty(0, np.int64))[0] for user in users]
    found = TopK(catalogue, threads=threads).search(users, counts, excluded)
    for user, count, banned, one in zip(users, counts, excluded, found, strict=True):
        rows, scores = sorted_by_score(catalogue, user, count, banned)
        np.testing.assert_array_equal(one.rows, rows)
        np.testing.assert_array_equal(one.scores, scores)


def test_where_bounds_decide_nothing_all_is_scored_in_parts(catalogue: NDArray[np.float32], monkeypatch):
    monkeypatch.setattr(screened, "_CHUNK_ITEMS", 5000)
    nobody = np.zeros((2, 8), dtype=np.float32)
    catalogue[:, -1] = 1.0
    found = TopK(catalogue).search(nobody, [3, 3], [np.array([0, 2]), np.arange(100_000)])
    np.testing.assert_array_equal(found[0].rows, [1, 3, 4])
    np.testing.assert_array_equal(found[1].rows, [100_000, 100_001, 100_002])


def test_nothing_is_left(catalogue: NDArray[np.float32]):
    (found,) = TopK(catalogue).search(np.ones((1, 8), dtype=np.float32), [5], [np.arange(len(catalogue))])
    assert len(found.rows) == len(found.scores) == 0


def test_items_that_are_no_numbers_are_refused(catalogue: NDArray[np.float32]):
    catalogue[70_000, 3] = np.inf
    with pytest.raises(BundleError, match="the item with index 70001 are not all finite"):
        TopK(catalogue)


@pytest.mark.parametrize("graph_", [graph(b"MatMulInteger", 2, 3, 6), graph(b"MatMul", 1, 1, 1)])
def test_products_are_valid_graphs(graph_: bytes):
    onnx.checker.check_model(onnx.load_from_string(graph_))


def test_the_integer_product_is_exact():
    left = np.array([[255, 255, 0, 255]], dtype=np.uint8).repeat(40, axis=1)
    right = np.array([[-64], [-64], [64], [-64]], dtype=np.int8).repeat(40, axis=0)
    product = Product.of_integers()(left, right)
    np.testing.assert_array_equal(product, left.astype(np.int32) @ right.astype(np.int32))
