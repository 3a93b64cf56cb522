"""A rank's work, in this process: the process group has one member."""

import dataclasses
from collections.abc import Generator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from tests.training.samples import SMALL_CONFIG
from training.config import ChurnConfig, RatingConfig, TrainConfig, config_fields
from training.data.dataset import Dataset
from training.job import CHECKPOINT, MODEL, Job, TrainedModel, read_trained
from training.models.store import load_model
from training.worker import Worker


@pytest.fixture(autouse=True)
def group() -> Generator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()
    torch.set_num_threads(2)


def job_for(dataset: Dataset, folder: Path, config: TrainConfig) -> Job:
    folder.mkdir(parents=True, exist_ok=True)
    return Job(
        key="k",
        task=dataset.task,
        dataset=str(dataset.folder),
        folder=str(folder),
        config=config_fields(config),
        seed=7,
        ranks=1,
        threads=1,
        code_revision="test",
    )


def run(job: Job) -> TrainedModel:
    Worker(job, torch.device("cpu")).run()
    return read_trained(Path(job.folder) / MODEL)


def outcome(trained: TrainedModel) -> tuple[object, ...]:
    history = [dataclasses.replace(event, seconds=0.0) for event in trained.history]
    weights = {name: value.tolist() for name, value in load_model(trained.folder).state_dict().items()}
    return history, trained.metrics, weights


SHORT = dataclasses.replace(SMALL_CONFIG, epochs=6)
DROPOUT = ChurnConfig(epochs=4, batch_rows=1024)


@pytest.mark.parametrize("task", ["rating", "churn"])
def test_a_resumed_run_equals_an_uninterrupted_one(task, small_ratings: Dataset, customers: Dataset, tmp_path: Path):
    dataset, config = (small_ratings, SHORT) if task == "rating" else (customers, DROPOUT)
    whole = run(job_for(dataset, tmp_path / "whole", config))
    job = job_for(dataset, tmp_path / "cut", config)
    first = Worker(job, torch.device("cpu"))
    first.run_epoch()
    first.run_epoch()
    assert outcome(run(job)) == outcome(whole)


def test_the_same_seed_gives_the_same_bits(small_ratings: Dataset, tmp_path: Path):
    runs = [run(job_for(small_ratings, tmp_path / name, SHORT)) for name in ("a", "b")]
    assert outcome(runs[0]) == outcome(runs[1])
    other = dataclasses.replace(job_for(small_ratings, tmp_path / "c", SHORT), seed=8)
    assert outcome(run(other)) != outcome(runs[0])


def test_a_corrupt_checkpoint_means_starting_anew(
    small_ratings: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture
):
    whole = run(job_for(small_ratings, tmp_path / "whole", SHORT))
    job = job_for(small_ratings, tmp_path / "cut", SHORT)
    Worker(job, torch.device("cpu")).run_epoch()
    path = tmp_path / "cut" / CHECKPOINT
    path.write_bytes(path.read_bytes()[:1000])
    assert outcome(run(job)) == outcome(whole)
    assert "is damaged, training starts anew" in capsys.readouterr().err


def test_the_best_weights_are_kept_and_training_stops_early(small_ratings: Dataset, tmp_path: Path):
    config = RatingConfig(epochs=500, patience=3, batch_rows=200, learning_rate=0.1, vector_damping=0.0)
    trained = run(job_for(small_ratings, tmp_path / "job", config))
    metrics = [event.valid_metric for event in trained.history]
    best = metrics.index(min(metrics))
    assert len(metrics) == best + 1 + config.patience
    worker = Worker(job_for(small_ratings, tmp_path / "again", config), torch.device("cpu"))
    worker.objective.model.load_state_dict(load_model(trained.folder).state_dict())
    assert worker.validate() == pytest.approx(metrics[best])


def test_diverging_is_an_error(small_ratings: Dataset, tmp_path: Path):
    config = dataclasses.replace(SHORT, learning_rate=1e30)
    with pytest.raises(FloatingPointError, match="diverged in epoch"):
        run(job_for(small_ratings, tmp_path / "job", config))


def test_the_unknown_stays_at_zero(small_ratings: Dataset, tmp_path: Path):
    model = load_model(run(job_for(small_ratings, tmp_path / "job", SHORT)).folder)
    for name, value in model.state_dict().items():
        if name != "mean":
            assert not value[0].any(), name
            assert value[1:].any(), name
