from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from driftwheel.bundle import ITEM_FACTORS, ITEMS, SEEN
from driftwheel.errors import BundleError, ExportError
from driftwheel.vocabulary import Vocabulary
from exporters.parity import prove_recommend
from exporters.recommend import recommend_in_numpy, write_factors
from serving.recommendation.recommender import Recommender, read_recommender
from training.config import RatingConfig
from training.models.matrix_factorization import MatrixFactorization, MatrixFactorizationShape

USERS, ITEM_COUNT = 6, 40
NONE = np.empty(0, dtype=np.int64)
VOCABULARIES = {"user_id": Vocabulary(range(1, USERS)), "item_id": Vocabulary(range(101, 100 + ITEM_COUNT))}


@pytest.fixture
def model() -> MatrixFactorization:
    torch.manual_seed(1)
    made = MatrixFactorization(MatrixFactorizationShape(users=USERS, items=ITEM_COUNT, factors=4, low=0.5, high=5.0))
    with torch.no_grad():
        for table in (made.user_vector, made.item_vector, made.user_bias, made.item_bias):
            table.weight[1:].normal_()
    return made.eval()


@pytest.fixture
def recommender(model: MatrixFactorization, tmp_path: Path) -> Recommender:
    return written(tmp_path, model)


def written(folder: Path, model: MatrixFactorization, seen: tuple[int, ...] = ()) -> Recommender:
    """What serving reads of a bundle's folder; user 1 has seen some items."""
    write_factors(folder, model, RatingConfig())
    offsets = np.minimum(np.maximum(np.arange(USERS + 1) - 1, 0), 1) * len(seen)
    np.savez(folder / SEEN, offsets=offsets, items=np.array(seen, dtype=np.int64))
    ids = VOCABULARIES["item_id"].entries
    pq.write_table(pa.table({"item_id": ids, "popularity": np.arange(len(ids))}), folder / ITEMS)
    return read_recommender(folder, VOCABULARIES, threads=1, label="mf")


def test_it_is_the_model_sorted(recommender: Recommender, model: MatrixFactorization):
    for user in (1, 3):
        rows, scores = recommender.ranked(user, NONE, 10)
        with torch.no_grad():
            raw = model.raw_scores(torch.tensor(user), torch.arange(ITEM_COUNT)).numpy()
            raw[0] = -np.inf
            np.testing.assert_array_equal(rows + 1, np.argsort(-raw)[:10])
            own = model(torch.full((10,), user), torch.from_numpy(rows + 1))
        np.testing.assert_allclose(scores, own, atol=1e-5)


def test_items_beyond_the_range_keep_their_order(model: MatrixFactorization, tmp_path: Path):
    """Clipped scores tie at the top; the ranking is of what lies behind them."""
    with torch.no_grad():
        model.mean.fill_(4.9)
    rows, scores = written(tmp_path, model).ranked(1, NONE, 20)
    raw = model.raw_scores(torch.tensor(1), torch.from_numpy(rows + 1)).detach().numpy()
    assert (np.diff(raw) <= 0).all()
    assert scores.max() == 5.0


@pytest.mark.parametrize("k", [1, 5, ITEM_COUNT])
def test_seen_and_excluded_items_never_come(model: MatrixFactorization, tmp_path: Path, k: int):
    recommender = written(tmp_path, model, seen=(7, 9))
    rows, _ = recommender.ranked(1, np.array([0, 1, 2]), k)
    assert not np.isin(rows, [0, 1, 2, 6, 8]).any()
    assert len(rows) == min(k, ITEM_COUNT - 1 - 5)
    rows, _ = recommender.ranked(2, NONE, ITEM_COUNT)
    assert len(rows) == ITEM_COUNT - 1


def test_the_proof_refuses_another_model(recommender: Recommender, model: MatrixFactorization):
    users = np.array([1, 2], dtype=np.int64)
    cases = prove_recommend(model, recommender, users)
    assert {case.format for case in cases} == {"recommend"}
    with torch.no_grad():
        model.mean += 0.002
    with pytest.raises(ExportError, match=r"recommend differs from the model by 0\.00"):
        prove_recommend(model, recommender, users)


def test_the_proof_counts_what_the_user_has_seen(model: MatrixFactorization, tmp_path: Path):
    best, _ = recommend_in_numpy(model, 1, NONE, 3)
    recommender = written(tmp_path, model, seen=tuple(best.tolist()))
    assert len(prove_recommend(model, recommender, np.array([1, 2]))) == 5


def test_factors_that_are_no_numbers_are_refused(model: MatrixFactorization, tmp_path: Path):
    with torch.no_grad():
        model.item_vector.weight[3, 0] = torch.nan
    with pytest.raises(BundleError, match="the item with index 3 are not all finite"):
        written(tmp_path, model)


def test_tables_of_another_size_are_refused(recommender: Recommender, tmp_path: Path):
    np.save(tmp_path / ITEM_FACTORS, np.zeros((3, 5), dtype=np.float32))
    with pytest.raises(BundleError, match=r"items\.npy must be float32 of shape \[39, factors \+ 1\], got float32"):
        read_recommender(tmp_path, VOCABULARIES, threads=1, label="mf")
