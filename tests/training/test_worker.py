"""A rank's work, in this process: the process group has one member."""

import dataclasses
import os
import subprocess
from collections.abc import Generator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from driftwheel.errors import TrainingError
from tests.training.samples import SMALL_CONFIG
from training.config import ChurnConfig, RatingConfig, TrainConfig, config_fields
from training.data.dataset import Dataset
from training.job import CHECKPOINTS, MODEL, Job, TrainedModel, read_trained
from training.models.store import load_model
from training.stopping import Stopped
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
    history = [
        dataclasses.replace(event, seconds=0.0, cpu_seconds=None, peak_memory_mb=None) for event in trained.history
    ]
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
    worker = Worker(job, torch.device("cpu"))
    worker.run_epoch()
    worker.run_epoch()
    for path in (tmp_path / "cut" / CHECKPOINTS).glob("*/part-0.safetensors"):
        path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
    assert outcome(run(job)) == outcome(whole)
    said = capsys.readouterr().err
    assert said.count("is damaged") == 2
    assert "part-0.safetensors is not what was written: its checksum differs" in said


@pytest.mark.parametrize("damage", ["description", "digit", "truncated", "missing"])
def test_a_damaged_checkpoint_falls_back_on_the_one_before(
    damage: str, small_ratings: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture
):
    job = job_for(small_ratings, tmp_path / "cut", SHORT)
    worker = Worker(job, torch.device("cpu"))
    for _ in range(3):
        worker.run_epoch()
    older, newest = sorted((tmp_path / "cut" / CHECKPOINTS).iterdir())
    assert (older.name, newest.name) == ("000002-00000000", "000003-00000000")
    if damage == "description":
        (newest / "checkpoint.json").write_text("{")
    elif damage == "digit":
        path = newest / "checkpoint.json"
        path.write_bytes(path.read_bytes().replace(b'"epochs_since_best":0', b'"epochs_since_best":9'))
    elif damage == "truncated":
        (newest / "part-0.safetensors").write_bytes((newest / "part-0.safetensors").read_bytes()[:1000])
    else:
        (newest / "part-0.safetensors").unlink()
    resumed = Worker(job, torch.device("cpu"))
    assert resumed.progress.epoch == 2
    assert "checkpoint 000003-00000000 is damaged" in capsys.readouterr().err
    resumed.run_epoch()  # and the damaged one is replaced
    assert Worker(job, torch.device("cpu")).progress.epoch == 3
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("task", ["rating", "churn"])
def test_a_run_stopped_amid_an_epoch_goes_on_with_the_same_bits(
    task, small_ratings: Dataset, customers: Dataset, tmp_path: Path
):
    dataset, config = (small_ratings, SHORT) if task == "rating" else (customers, DROPOUT)
    config = dataclasses.replace(config, batch_rows=300)
    whole = run(job_for(dataset, tmp_path / "whole", config))
    job, stops = job_for(dataset, tmp_path / "cut", config), 0
    while not (tmp_path / "cut" / MODEL).exists():
        answers = iter([False] * 5)
        try:
            Worker(job, torch.device("cpu"), lambda: next(answers, True)).run()  # noqa: B023 (used within this turn)
        except Stopped:
            stops += 1
    assert stops >= 3
    assert outcome(read_trained(tmp_path / "cut" / MODEL)) == outcome(whole)


def test_being_stopped_at_once_writes_nothing(small_ratings: Dataset, tmp_path: Path):
    with pytest.raises(Stopped):
        Worker(job_for(small_ratings, tmp_path / "job", SHORT), torch.device("cpu"), lambda: True).run()
    assert not (tmp_path / "job" / CHECKPOINTS).exists()


def test_only_two_checkpoints_are_kept_and_nothing_half_written(small_ratings: Dataset, tmp_path: Path):
    run(job_for(small_ratings, tmp_path / "job", SHORT))
    names = sorted(path.name for path in (tmp_path / "job" / CHECKPOINTS).iterdir())
    assert names == ["000005-00000000", "000006-00000000"]


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


@pytest.fixture
def small_disk(tmp_path: Path) -> Generator[Path]:
    """A file system with room for a job's first files and one checkpoint."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if (made := subprocess.run(mount, capture_output=True, text=True)).returncode:
        pytest.skip(f"no file system of a given size can be made here: {made.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_a_clear_error_and_leaves_the_checkpoint_before(small_ratings: Dataset, small_disk: Path):
    job = job_for(small_ratings, small_disk / "job", SHORT)
    worker = Worker(job, torch.device("cpu"))
    worker.run_epoch()
    (small_disk / "filler").write_bytes(b"0" * (os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize))
    with pytest.raises(TrainingError, match="no checkpoint could be written to .*No space left on device") as caught:
        worker.run_epoch()
    assert caught.value.hint is not None
    assert [path.name for path in (small_disk / "job" / CHECKPOINTS).iterdir()] == ["000001-00000000"]
    (small_disk / "filler").unlink()
    resumed = Worker(job, torch.device("cpu"))
    assert resumed.progress.epoch == 1
    resumed.run_epoch()
