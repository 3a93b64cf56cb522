"""The recorded rankings: what was written is read, and damage is said."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from driftwheel.errors import TrainingError
from training.data.dataset import Dataset, encoded_split
from training.final_metrics import rankings_judged
from training.metrics import ranking_metrics
from training.models.matrix_factorization import MatrixFactorization, MatrixFactorizationShape
from training.ranking_record import DEPTH, ITEMS, RANKINGS, read_rankings, write_rankings


def made_model(dataset: Dataset) -> MatrixFactorization:
    torch.manual_seed(0)  # with other weights two scores may be equal, and longer lists have these in another order
    known = dataset.read_vocabularies()
    shape = MatrixFactorizationShape(
        users=known["user_id"].table_size, items=known["item_id"].table_size, factors=4, low=0.5, high=5.0
    )
    return MatrixFactorization(shape).eval()


def test_they_are_read_as_they_were_written(small_ratings: Dataset, ratings: Dataset, tmp_path: Path) -> None:
    """Ids that are text and ids that are numbers; the metrics are those that training gives."""
    for dataset in (small_ratings, ratings):
        model = made_model(dataset)
        write_rankings(tmp_path, model, dataset)
        record = read_rankings(tmp_path / RANKINGS, tmp_path / ITEMS)
        train, test = encoded_split(dataset, "train"), encoded_split(dataset, "test")
        expected = rankings_judged(model, train, test)
        assert ranking_metrics(record.ranked, record.relevant, record.popularity) == pytest.approx(expected)
        assert record.training == dataset.fingerprint
        assert record.items.tolist() == list(dataset.read_vocabularies()["item_id"].entries)
        assert record.ranked.shape == (len(record.users), DEPTH)
        user = dataset.read_vocabularies()["user_id"].encode(record.users)[0]
        seen = train.feed["item_index"][train.feed["user_index"] == user]
        assert not set(record.ranked[0] + 1) & set(seen)


def test_a_test_split_in_which_nobody_likes_anything_gives_a_record_of_nobody(
    small_ratings: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.final_metrics._RELEVANT", 2.0)
    write_rankings(tmp_path, made_model(small_ratings), small_ratings)
    record = read_rankings(tmp_path / RANKINGS, tmp_path / ITEMS)
    assert record.ranked.shape == (0, DEPTH)
    assert len(record.users) == len(record.relevant.row) == 0


def test_damage_is_said(small_ratings: Dataset, tmp_path: Path) -> None:
    write_rankings(tmp_path, made_model(small_ratings), small_ratings)
    rankings, items = tmp_path / RANKINGS, tmp_path / ITEMS
    whole, about = pq.read_table(rankings), pq.read_table(items)
    pq.write_table(about.slice(1), items)
    with pytest.raises(TrainingError, match=r"rankings\.parquet are missing or damaged: .*not among the items"):
        read_rankings(rankings, items)
    pq.write_table(about, items)
    for damaged in (whole.drop_columns("relevant"), whole.replace_schema_metadata(None), pa.table({"a": np.arange(2)})):
        pq.write_table(damaged, rankings)
        with pytest.raises(TrainingError, match="missing or damaged"):
            read_rankings(rankings, items)
    rankings.write_bytes(b"PAR1")
    with pytest.raises(TrainingError, match="missing or damaged"):
        read_rankings(rankings, items)
