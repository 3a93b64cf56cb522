"""What a version in service is trained on, under a real torchrun with two ranks."""

import dataclasses
from pathlib import Path

import msgspec
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
import torch.distributed as dist

from driftwheel.errors import TrainingError
from tests.training.samples import SMALL_CONFIG, run_both
from training.data.dataset import Dataset, encoded_split
from training.data.refit import refit_dataset
from training.job import CHECKPOINTS, JOB, MODEL, EpochEvent, Job, TrainedModel, read_trained
from training.launch import Trained
from training.models.store import load_model
from training.worker import Worker

CONFIG = dataclasses.replace(SMALL_CONFIG, epochs=12)


def frame(dataset: Dataset, file: str) -> pd.DataFrame:
    return pq.read_table(dataset.path(file)).to_pandas()


@pytest.fixture(scope="module")
def small(small_ratings: Dataset, tmp_path_factory: pytest.TempPathFactory) -> tuple[Trained, list[EpochEvent]]:
    """Nobody interrupts it."""
    events: list[EpochEvent] = []
    jobs = tmp_path_factory.mktemp("jobs")
    return run_both(small_ratings, refit_dataset(small_ratings), jobs, config=CONFIG, on_epoch=events.append), events


def test_all_rows_but_the_reference_are_learned(ratings: Dataset, full_ratings: Dataset):
    parts = [frame(ratings, f"{name}.parquet") for name in ("train", "valid", "test")]
    train, reference = frame(full_ratings, "train.parquet"), frame(full_ratings, "reference.parquet")
    pd.testing.assert_frame_equal(train, pd.concat(parts, ignore_index=True))
    pd.testing.assert_frame_equal(reference, frame(ratings, "reference.parquet"))
    assert len(train.merge(reference, on=["user_id", "item_id"])) == 0
    assert full_ratings.rows == {"train": len(train), "reference": len(reference)}
    assert full_ratings.data_until == ratings.data_until
    assert full_ratings.fingerprint != ratings.fingerprint
    assert refit_dataset(ratings) == full_ratings


def test_what_is_derived_follows_all_rows(ratings: Dataset, full_ratings: Dataset):
    train = frame(full_ratings, "train.parquet")
    for column, vocabulary in full_ratings.read_vocabularies().items():
        assert list(vocabulary.entries) == sorted(train[column].unique())
    items = frame(full_ratings, "items.parquet")
    np.testing.assert_array_equal(items["popularity"], train.groupby("item_id").size())
    assert items["title"].notna().all(), "items that only the held-out rows name have titles too"
    assert len(items) > len(frame(ratings, "items.parquet"))
    counts = train.groupby("user_id").size()
    np.testing.assert_array_equal(frame(full_ratings, "user_features.parquet")["rating_count"], counts)


def test_the_test_split_of_customers_stays_held_out(customers: Dataset):
    full = refit_dataset(customers)
    learned = frame(full, "train.parquet")["customer_id"]
    expected = [frame(customers, f"{name}.parquet")["customer_id"] for name in ("train", "valid")]
    assert learned.tolist() == pd.concat(expected).tolist()
    for split in ("test", "live"):
        pd.testing.assert_frame_equal(frame(full, f"{split}.parquet"), frame(customers, f"{split}.parquet"))
    assert set(full.rows) == {"train", "test", "live"}


def test_the_newest_user_gets_a_vector(ratings: Dataset, full_ratings: Dataset, refitted_ratings: TrainedModel):
    users = frame(ratings, "test.parquet")["user_id"].to_numpy()
    newest = users[ratings.read_vocabularies()["user_id"].encode(users) == 0][-1:]
    (index,) = full_ratings.read_vocabularies()["user_id"].encode(newest)
    model = load_model(refitted_ratings.folder)
    assert index > 0
    assert model.user_vector.weight[index].any()
    assert model.user_bias.weight[index].any()


def test_the_metrics_are_those_of_the_same_training_without_the_test_split(
    ratings: Dataset, trained_ratings: TrainedModel, refitted_ratings: TrainedModel, full_ratings: Dataset
):
    until_test = refit_dataset(ratings, keep_test=True)
    assert until_test.rows["train"] == ratings.rows["train"] + ratings.rows["valid"]
    assert until_test.rows["test"] == ratings.rows["test"]
    (folder,) = refitted_ratings.folder.parent.parent.glob(f"rating-{until_test.fingerprint[:16]}-*/{MODEL}")
    measured = read_trained(folder)
    assert refitted_ratings.metrics == measured.metrics != trained_ratings.metrics
    assert measured.metrics["rmse"] == pytest.approx(trained_ratings.metrics["rmse"], abs=0.02)
    assert refitted_ratings.history == trained_ratings.history
    assert refitted_ratings.fingerprint == full_ratings.fingerprint
    assert refitted_ratings.refit_rows == full_ratings.rows["train"]
    assert refitted_ratings.refit_epochs == trained_ratings.best_epoch
    assert (trained_ratings.refit_rows, trained_ratings.refit_epochs) == (None, None)
    assert read_trained(refitted_ratings.folder) == refitted_ratings


def test_the_epochs_of_all_are_reported(small: tuple[Trained, list[EpochEvent]]):
    trained, events = small
    assert tuple(events[: CONFIG.epochs]) == trained.evaluated.history
    rest = events[CONFIG.epochs :]
    assert [event.epoch for event in rest] == 2 * list(range(1, (trained.shipped.refit_epochs or 0) + 1))
    assert all(event.valid_metric is None for event in rest)


def test_both_are_found_again(small_ratings: Dataset, small: tuple[Trained, list[EpochEvent]]):
    trained, _ = small
    jobs = trained.evaluated.folder.parent.parent
    again = run_both(small_ratings, refit_dataset(small_ratings), jobs, config=CONFIG, timeout_s=0.0)
    assert again == trained


def test_a_refit_that_was_cut_off_goes_on(
    small_ratings: Dataset, small: tuple[Trained, list[EpochEvent]], tmp_path: Path
):
    """The evaluation is done, and the refit's first epochs are: neither is done again."""
    trained, _ = small
    full = refit_dataset(small_ratings)
    with pytest.raises(TrainingError, match="longer than"):
        run_both(small_ratings, full, tmp_path, config=CONFIG, timeout_s=0.0)
    for done in trained.evaluated.folder.parent.parent.glob(f"*/{MODEL}"):
        if done.parent.name != trained.shipped.key:
            (tmp_path / done.parent.name / MODEL).symlink_to(done)
    job = _read_job(tmp_path / trained.shipped.key / JOB)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        worker = Worker(job, torch.device("cpu"))
        worker.run_epoch()
        worker.run_epoch()
    finally:
        dist.destroy_process_group()
    events: list[EpochEvent] = []
    assert (tmp_path / trained.shipped.key / CHECKPOINTS).exists()
    resumed = run_both(small_ratings, full, tmp_path, config=CONFIG, on_epoch=events.append)
    assert len(events) == trained.shipped.refit_epochs
    assert resumed.shipped.metrics == trained.shipped.metrics
    expected = load_model(trained.shipped.folder).state_dict()
    for name, value in load_model(resumed.shipped.folder).state_dict().items():
        torch.testing.assert_close(value, expected[name], atol=1e-3, rtol=1e-3)


def test_the_evaluation_never_saw_its_test_split(
    ratings: Dataset, full_ratings: Dataset, trained_ratings: TrainedModel
):
    model = load_model(trained_ratings.folder)
    assert model.shape.users == ratings.read_vocabularies()["user_id"].table_size
    assert model.shape.users < full_ratings.read_vocabularies()["user_id"].table_size
    assert (encoded_split(ratings, "test").feed["user_index"] == 0).any()


def _read_job(path: Path) -> Job:
    return msgspec.json.decode(path.read_bytes(), type=Job)
