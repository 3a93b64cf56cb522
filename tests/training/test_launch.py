"""Training under a real torchrun with two ranks."""

import dataclasses
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist

from driftwheel.errors import BusyError, TrainingError
from driftwheel.files import exclusive_lock, write_atomically
from tests.training.samples import SMALL_CONFIG, run_job
from training.config import RatingConfig, config_fields
from training.data.dataset import Dataset, encoded_split
from training.inference import predict
from training.job import CHECKPOINTS, MODEL, PROGRESS, STDERR, EpochEvent, Job, TrainedModel, read_trained
from training.launch import EventTail, last_words
from training.metrics import rating_metrics
from training.models.store import load_model
from training.worker import Worker


def weights(trained: TrainedModel) -> dict[str, torch.Tensor]:
    return load_model(trained.folder).state_dict()


def untimed(history: tuple[EpochEvent, ...] | list[EpochEvent]) -> list[EpochEvent]:
    return [dataclasses.replace(event, seconds=0.0, cpu_seconds=None, peak_memory_mb=None) for event in history]


def test_ratings_are_learned(trained_ratings: TrainedModel, ratings: Dataset):
    train, test = encoded_split(ratings, "train"), encoded_split(ratings, "test")
    of_the_mean = rating_metrics(np.full_like(test.label, train.label.mean()), test.label)["rmse"]
    assert of_the_mean == pytest.approx(1.033, abs=0.001)
    assert trained_ratings.metrics["rmse"] < 0.985
    assert trained_ratings.metrics["ndcg_at_10"] > 0
    predicted = predict(load_model(trained_ratings.folder), test.feed)
    assert rating_metrics(predicted, test.label)["rmse"] == pytest.approx(trained_ratings.metrics["rmse"])


def test_churn_is_learned(trained_customers: TrainedModel):
    assert trained_customers.metrics["auc"] >= 0.83
    assert trained_customers.metrics["log_loss"] < 0.43


def test_two_ranks_learn_what_one_learns(small_ratings: Dataset, trained_small: TrainedModel, tmp_path: Path):
    two = trained_small
    job = Job(
        key="alone",
        task="rating",
        dataset=str(small_ratings.folder),
        folder=str(tmp_path),
        config=config_fields(SMALL_CONFIG),
        seed=two.seed,
        ranks=1,
        threads=1,
        code_revision="",
    )
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        Worker(job, torch.device("cpu")).run()
    finally:
        dist.destroy_process_group()
    one = read_trained(tmp_path / MODEL)
    for name, value in weights(two).items():
        torch.testing.assert_close(weights(one)[name], value, atol=1e-3, rtol=1e-3)
    assert one.metrics["rmse"] == pytest.approx(two.metrics["rmse"], abs=1e-4)


LAUNCH = """
import sys
from pathlib import Path
from tests.training.samples import SMALL_CONFIG, run_job
from training.data.dataset import read_dataset
from training.execution import Execution
run_job(
    read_dataset(Path(sys.argv[1])),
    Path(sys.argv[2]),
    config=SMALL_CONFIG,
    execution=Execution(max_restarts=int(sys.argv[3])),
    grace_s=float(sys.argv[4]),
)
"""


def launched(dataset: Dataset, jobs: Path, max_restarts: int = 0, grace_s: float = 20.0) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", LAUNCH, str(dataset.folder), str(jobs), str(max_restarts), str(grace_s)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def under_way(jobs: Path, epochs: int = 5) -> Path:
    """The folder of the one job in a folder, once so many epochs are done, those of interrupted predecessors included."""
    _wait_for(lambda: _epochs_told(jobs) >= epochs)
    (progress,) = jobs.glob(f"*/{PROGRESS}")
    return progress.parent


def _epochs_told(jobs: Path) -> int:
    """A job that is started again tells of its epochs anew, in a new file."""
    with suppress(FileNotFoundError):
        return sum(path.read_bytes().count(b"\n") for path in jobs.glob(f"*/{PROGRESS}"))
    return 0


def assert_same_bits(trained: TrainedModel, other: TrainedModel) -> None:
    assert untimed(trained.history) == untimed(other.history)
    assert trained.metrics == other.metrics
    for name, value in weights(other).items():
        assert torch.equal(weights(trained)[name], value)


@pytest.mark.timeout(600)
def test_a_job_that_is_told_to_stop_and_killed_goes_on_as_if_nothing_had_happened(
    small_ratings: Dataset, trained_small: TrainedModel, tmp_path: Path
):
    """Torchrun is told first, then a rank alone, each time saving between two steps; in the end all are killed."""
    done = 0
    for told in ("torchrun", "one rank"):
        launcher = launched(small_ratings, tmp_path)
        job = under_way(tmp_path, done + 5)
        ranks = _ranks_of(job)
        (torchrun,) = set(_processes_with(str(job))) - set(ranks)
        os.kill(torchrun if told == "torchrun" else ranks[1], signal.SIGTERM)
        assert "stopped by a signal; its checkpoint holds the work so far" in launcher.communicate(timeout=200)[1]
        assert launcher.returncode == 1
        assert not _processes_with(str(job))
        done = (job / PROGRESS).read_bytes().count(b"\n")
        newest = max(path.name for path in (job / CHECKPOINTS).iterdir())
        assert int(newest.split("-")[0]) == done < SMALL_CONFIG.epochs

    launcher = launched(small_ratings, tmp_path)
    job = under_way(tmp_path, done + 5)
    for process in [launcher.pid, *_processes_with(str(job))]:
        os.kill(process, signal.SIGKILL)
    launcher.communicate()
    assert done < (job / PROGRESS).read_bytes().count(b"\n") < SMALL_CONFIG.epochs
    assert not (job / MODEL).exists()
    assert (job / CHECKPOINTS).exists()

    events: list[EpochEvent] = []
    resumed = run_job(small_ratings, tmp_path, config=SMALL_CONFIG, on_epoch=events.append)
    assert [event.epoch for event in events] == list(range(1, SMALL_CONFIG.epochs + 1))
    assert untimed(events) == untimed(resumed.history)
    assert_same_bits(resumed, trained_small)


def test_a_killed_rank_is_started_again_and_the_run_goes_on(
    small_ratings: Dataset, trained_small: TrainedModel, tmp_path: Path
):
    launcher = launched(small_ratings, tmp_path, max_restarts=1)
    job = under_way(tmp_path)
    first = _ranks_of(job)
    os.kill(first[1], signal.SIGKILL)
    said = launcher.communicate(timeout=200)[1]
    assert launcher.returncode == 0, said
    assert_same_bits(read_trained(job / MODEL), trained_small)
    assert f"local_rank: 1 (pid: {first[1]})" in (job / STDERR).read_text()


def test_a_rank_that_waits_for_one_that_is_gone_ends_soon_after_sigterm(small_ratings: Dataset, tmp_path: Path):
    """Inside a collective operation no Python code runs; nobody kills this rank but itself."""
    launcher = launched(small_ratings, tmp_path, grace_s=2.0)
    job = under_way(tmp_path)
    gone, waiting = _ranks_of(job)
    (torchrun,) = set(_processes_with(str(job))) - {gone, waiting}
    os.kill(gone, signal.SIGSTOP)  # not dead, or its connections would be closed
    os.kill(torchrun, signal.SIGSTOP)
    os.kill(waiting, signal.SIGTERM)
    try:
        _wait_for(lambda: _state(waiting) in ("Z", None))
        assert "not stopped 2 s after the signal: ended here" in (job / STDERR).read_text()
        assert any((job / CHECKPOINTS).iterdir())
    finally:
        for process in (gone, torchrun, launcher.pid):
            os.kill(process, signal.SIGKILL)
        launcher.communicate()


def test_a_finished_job_is_not_run_again(small_ratings: Dataset, trained_small: TrainedModel):
    trained = trained_small
    jobs = trained.folder.parent.parent
    before = {path: path.stat().st_mtime_ns for path in trained.folder.parent.rglob("*")}
    assert run_job(small_ratings, jobs, config=SMALL_CONFIG) == trained
    assert {path: path.stat().st_mtime_ns for path in trained.folder.parent.rglob("*")} == before


def test_a_failed_job_says_why(small_ratings: Dataset, tmp_path: Path):
    with pytest.raises(TrainingError) as caught:
        run_job(small_ratings, tmp_path, config=RatingConfig(learning_rate=1e30))
    assert "FloatingPointError: training diverged in epoch" in caught.value.message
    assert "torch.distributed.elastic" not in caught.value.message


def test_a_job_that_takes_too_long_is_ended(small_ratings: Dataset, tmp_path: Path):
    with pytest.raises(TrainingError, match=r"longer than 0\.5 s"):
        run_job(small_ratings, tmp_path, config=SMALL_CONFIG, timeout_s=0.5)
    assert not _processes_with(str(tmp_path))


def test_one_job_at_a_time(small_ratings: Dataset, trained_small: TrainedModel, tmp_path: Path):
    lock = tmp_path / f"{trained_small.key}.lock"
    with exclusive_lock(lock, purpose="a test"), pytest.raises(BusyError):
        run_job(small_ratings, tmp_path, config=SMALL_CONFIG)


def test_half_a_line_waits(tmp_path: Path):
    path = tmp_path / "progress.jsonl"
    tail = EventTail(path)
    assert tail.new() == []
    line = b'{"epoch":1,"train_loss":1.0,"valid_metric":1.0,"best":true,"seconds":0.1}'
    path.write_bytes(line + b"\n" + line[:20])
    assert [event.epoch for event in tail.new()] == [1]
    assert tail.new() == []
    second = line.replace(b'"epoch":1', b'"epoch":2')
    path.write_bytes(line + b"\n" + second + b"\n")
    assert [event.epoch for event in tail.new()] == [2]
    third = line.replace(b'"epoch":1', b'"epoch":3')
    write_atomically(path, second + b"\n" + third + b"\n")  # restarted ranks write what they know anew
    assert [event.epoch for event in tail.new()] == [3]


def test_silence(tmp_path: Path):
    assert last_words(tmp_path / "stderr.log") == "it said nothing"


def _wait_for(condition, timeout_s: float = 200.0):
    deadline = time.monotonic() + timeout_s
    while not (result := condition()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)
    return result


def _ranks_of(job: Path) -> list[int]:
    """The processes of a job's ranks, in the order in which they were started."""
    return sorted(
        pid
        for pid in _processes_with(str(job))
        if b"torch.distributed.run" not in Path(f"/proc/{pid}/cmdline").read_bytes()
    )


def _state(pid: int) -> str | None:
    """The kernel's letter for what a process does; None when it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return None


def _processes_with(argument: str) -> list[int]:
    """Processes, other than this one, with an argument that contains a text."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal() or int(entry.name) == os.getpid():
            continue
        try:
            words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if any(argument in word and word.endswith("job.json") for word in words):
            found.append(int(entry.name))
    return found


def test_sigterm_ends_workers_without_a_model(small_ratings: Dataset, tmp_path: Path):
    launcher = launched(small_ratings, tmp_path)
    try:
        workers = _wait_for(lambda: _processes_with(str(tmp_path)))
        for worker in workers:
            os.kill(worker, signal.SIGTERM)
        launcher.communicate(timeout=200)
        assert launcher.returncode != 0
    finally:
        launcher.kill()
    assert not list(tmp_path.glob(f"*/{MODEL}"))
