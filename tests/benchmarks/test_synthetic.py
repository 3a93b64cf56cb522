"""Synthetic ratings are the same for the same seed, of the shape that was asked for, and can be learned."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from benchmarks.training.libraries import ridge_als
from benchmarks.training.libraries.exchange import load_split
from benchmarks.training.ours_stream import dataset_of
from benchmarks.training.synthetic import ABOUT, TEST, TRAIN, Synthetic, write_synthetic
from training.factorization.shards import read_shard

WANTED = Synthetic(rows=60_000, users=3_000, items=2_000, rank=4, test_share=0.1, row_groups=5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_synthetic(tmp_path_factory.mktemp("synthetic") / "ratings", WANTED)


def test_the_same_seed_makes_the_same_files(folder: Path, tmp_path: Path):
    again = write_synthetic(tmp_path / "again", WANTED)
    assert (again / TRAIN).read_bytes() == (folder / TRAIN).read_bytes()
    assert (again / TEST).read_bytes() == (folder / TEST).read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again"]


def test_another_kind_in_the_same_folder_is_refused(folder: Path):
    made = (folder / TRAIN).stat().st_mtime_ns
    assert write_synthetic(folder, WANTED) == folder
    assert (folder / TRAIN).stat().st_mtime_ns == made
    with pytest.raises(ValueError, match="holds synthetic ratings of another kind"):
        write_synthetic(folder, Synthetic(rows=60_001, users=3_000, items=2_000))


def test_row_groups_are_periods_in_their_order(folder: Path):
    file = pq.ParquetFile(folder / TRAIN)
    assert file.num_row_groups == WANTED.row_groups
    times = [file.read_row_group(number)["timestamp"].to_numpy() for number in range(WANTED.row_groups)]
    assert (np.diff(np.concatenate(times)) >= 0).all()
    assert all(len(part) for part in times)


def test_nobody_rates_an_item_twice_and_ratings_are_half_stars(folder: Path):
    split = load_split(folder)
    about = json.loads((folder / ABOUT).read_text())
    user, item = (np.concatenate([getattr(split.train, name), getattr(split.test, name)]) for name in ("user", "item"))
    rating = np.concatenate([split.train.rating, split.test.rating])
    assert len(user) == about["train_rows"] + about["test_rows"] == WANTED.rows
    assert len(np.unique(user * WANTED.items + item)) == len(user)
    assert set(np.unique(rating * 2)) <= set(range(1, 11))
    assert about["test_rows"] / WANTED.rows == pytest.approx(WANTED.test_share, abs=0.01)


def test_few_users_and_items_have_most_of_the_ratings(folder: Path):
    split = load_split(folder)
    for index in (split.train.user, split.train.item):
        count = np.sort(np.bincount(index))[::-1]
        assert count[: len(count) // 10].sum() > 0.25 * count.sum()


def test_there_is_something_to_learn_beyond_means(folder: Path):
    split = load_split(folder)
    floor = json.loads((folder / ABOUT).read_text())["rmse_of_the_truth"]
    parameters = {"ridge": 6.0, "bias_ridge": 3.0, "item_damping": 5.0, "epochs": 6}
    biases, factors = (
        ridge_als.predict_with_history(split, 42, factors=number, **parameters).values for number in (0, 4)
    )
    of_biases, of_factors = (np.sqrt(np.mean((one - split.test.rating) ** 2)) for one in (biases, factors))
    assert floor < of_factors < of_biases - 0.01
    assert of_biases < split.test.rating.std() - 0.1


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"rows": 0}, "rows must be at least 1, not 0"),
        ({"test_share": 1.0}, r"test_share must lie in \[0, 1\), not 1.0"),
        ({"rows": 100, "users": 20, "items": 30}, "100 rows are more than an eighth of all 20 x 30 pairs"),
    ],
)
def test_what_cannot_be_made_is_refused(wrong: dict[str, float], message: str):
    with pytest.raises(ValueError, match=message):
        Synthetic(**wrong)


def test_they_are_a_dataset_that_ranks_read_from(folder: Path, tmp_path: Path):
    dataset = dataset_of(folder, tmp_path / "dataset")
    shards = [read_shard(dataset, rank, 2) for rank in range(2)]
    assert sum(len(shard.by_user.value) for shard in shards) == shards[0].rows == dataset.rows["train"]
    assert shards[0].item_features == ()
