"""The recorded answers: what was written is read, and damage is said."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from driftwheel.errors import TrainingError
from driftwheel.preprocessing import encode
from tests.training.samples import in_this_process, run_both
from training.answers import measure, read_answers, write_answers
from training.config import RatingConfig
from training.data.dataset import Dataset, encoded_split, public_tensors, read_split
from training.data.refit import refit_dataset
from training.inference import predict
from training.metrics import rating_metrics
from training.models.store import load_any

CONFIG = RatingConfig(epochs=3, patience=3, batch_rows=500, factors=4)


def test_they_are_read_as_they_were_written(small_ratings: Dataset, customers: Dataset, tmp_path: Path) -> None:
    for dataset in (small_ratings, customers):
        predicted = np.linspace(0, 1, dataset.rows["test"]).astype(np.float32)
        write_answers(tmp_path / "answers.parquet", dataset, predicted)
        answers = read_answers(tmp_path / "answers.parquet")
        assert answers.signature == dataset.signature
        np.testing.assert_array_equal(answers.predicted, predicted)
        np.testing.assert_array_equal(answers.actual, encoded_split(dataset, "test").label)
        expected = public_tensors(dataset.signature, read_split(dataset, "test"))
        assert answers.tensors.keys() == expected.keys()
        for name, column in expected.items():
            assert answers.tensors[name].dtype == column.dtype
            np.testing.assert_array_equal(answers.tensors[name], column)


def test_what_is_measured_knows_all_but_the_test_split(small_ratings: Dataset, shared_home: Path) -> None:
    """Its answers have the metrics of the version, which those of the shipped weights, that know the split, have not."""
    full = refit_dataset(small_ratings)
    with in_this_process():
        made = run_both(small_ratings, full, shared_home / "jobs", config=CONFIG, ranks=1)
    measured = measure(made.measured, small_ratings)
    found = rating_metrics(measured.predicted, measured.split.label)
    assert found["rmse"] == pytest.approx(made.shipped.metrics["rmse"], rel=1e-5)
    assert made.measured.fingerprint not in (small_ratings.fingerprint, full.fingerprint)
    table = read_split(small_ratings, "test")
    feed = encode(full.signature, full.read_vocabularies(), public_tensors(full.signature, table))
    shipped = predict(load_any(made.shipped.folder), feed)
    assert rating_metrics(shipped, measured.split.label)["rmse"] < found["rmse"]


def test_damage_is_said(small_ratings: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "answers.parquet"
    write_answers(path, small_ratings, np.zeros(small_ratings.rows["test"], dtype=np.float32))
    table = pq.read_table(path)
    pq.write_table(table.drop_columns("label"), path)
    with pytest.raises(TrainingError, match=r"answers\.parquet are missing or damaged: .*label"):
        read_answers(path)
    pq.write_table(pa.table({"a": [1]}), path)
    with pytest.raises(TrainingError, match="missing or damaged"):
        read_answers(path)
    path.write_bytes(b"PAR1")
    with pytest.raises(TrainingError, match="missing or damaged"):
        read_answers(path)
