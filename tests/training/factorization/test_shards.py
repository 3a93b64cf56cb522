from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tests.training.samples import small_table
from training.data.dataset import Dataset, encoded_split
from training.data.ratings import prepare_ratings
from training.data.refit import refit_dataset
from training.data.sources import RatingsSource
from training.factorization.shards import Triples, read_part, read_shard, shared_out


def joined(parts: list[Triples]) -> set[tuple[int, int, float]]:
    return {
        one
        for part in parts
        for one in zip(*(side.tolist() for side in (part.row, part.column, part.value)), strict=True)
    }


def test_ranks_share_the_ratings_out_by_user_and_by_item(small_ratings: Dataset):
    split = encoded_split(small_ratings, "train")
    user, item = split.feed["user_index"].tolist(), split.feed["item_index"].tolist()
    ratings = split.label.tolist()
    for ranks in (1, 2, 3):
        shards = [read_shard(small_ratings, rank, ranks) for rank in range(ranks)]
        assert joined([shard.by_user for shard in shards]) == set(zip(user, item, ratings, strict=True))
        assert joined([shard.by_item for shard in shards]) == set(zip(item, user, ratings, strict=True))
        assert sum(len(shard.by_user.row) for shard in shards) == len(ratings)
        for rank, shard in enumerate(shards):
            first, end = shard.user_bounds[rank : rank + 2]
            assert ((shard.by_user.row >= first) & (shard.by_user.row < end)).all()
            assert shard.rows == len(ratings)
            np.testing.assert_allclose(shard.mean, np.mean(ratings), rtol=1e-6)
        sizes = [len(shard.by_user.row) for shard in shards]
        assert max(sizes) < 1.5 * len(ratings) / ranks


def test_ranks_share_a_split_out_row_by_row(small_ratings: Dataset):
    split = encoded_split(small_ratings, "valid")
    for rank in range(3):
        part = read_part(small_ratings, "valid", rank, 3)
        assert part.row.tolist() == split.feed["user_index"][rank::3].tolist()
        assert part.value.tolist() == split.label[rank::3].tolist()


@given(st.lists(st.integers(0, 1000), max_size=40), st.integers(1, 6))
def test_bounds_cover_all_rows_once(degrees: list[int], ranks: int):
    bounds = shared_out(np.array([0, *degrees]), ranks)
    assert bounds[0] == 1
    assert bounds[-1] == len(degrees) + 1
    assert (np.diff(bounds) >= 0).all()
    assert len(bounds) == ranks + 1


def test_traits_of_items_reach_every_rank_and_the_refit(tmp_path: Path):
    table = small_table(300)
    number = table["item_id"].str.extract(r"(\d+)")[0].astype(int)
    table["colour"] = np.where(number % 3 == 0, "red|warm", "blue")
    table["price"] = np.where(number % 2 == 0, number, np.nan)
    table.to_csv(tmp_path / "t.csv", index=False)
    source = RatingsSource(path=str(tmp_path / "t.csv"), trait_columns=("colour", "price"))
    dataset = prepare_ratings(source, tmp_path / "data")
    for one in (dataset, refit_dataset(dataset)):
        colours, prices = read_shard(one, 1, 2).item_features
        items = np.array([int(str(item).strip("i-")) for item in one.read_vocabularies()["item_id"].entries])
        half = 0.5**0.5
        expected = np.where(items[:, None] % 3 == 0, [0, half, half], [1, 0, 0])
        np.testing.assert_allclose(colours[1:], expected, rtol=1e-6)
        odd = prices[1:][items % 2 == 1]
        np.testing.assert_array_equal(odd, np.broadcast_to(prices[0], odd.shape))
        assert prices.shape[1] > 1


def test_without_traits_there_are_no_features(small_ratings: Dataset):
    assert read_shard(small_ratings, 0, 1).item_features == ()
