"""Real data and real training jobs, made once for all workers of a test session: preparing and training again finds what is
there.
"""

import os
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from driftwheel.files import waiting_lock
from training.config import RatingConfig, TrainConfig, config_fields, default_config, digest
from training.data.customers import prepare_customers
from training.data.dataset import Dataset
from training.data.ratings import prepare_ratings
from training.data.refit import refit_dataset
from training.data.sources import CustomersSource, RatingsSource
from training.job import PROGRESS, Job, TrainedModel, read_trained
from training.launch import EventTail, OnEpoch, Trained, _job, _model, _report, _run, _worker, train, train_and_refit

CUT = "2012-06-09"
SMALL_CONFIG = RatingConfig(epochs=80, patience=80, batch_rows=500, factors=4)


@pytest.fixture(scope="session")
def shared_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same folder in every test folder of the session. Data and jobs in it are those of all workers of xdist, of which
    each has a temporary folder in a common one; all else, as what MLflow keeps, is the worker's own.
    """
    base = tmp_path_factory.getbasetemp()
    home = base / "shared-home"
    home.mkdir(exist_ok=True)
    common = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared-by-workers"
    for name in ("data", "jobs"):
        (common / name).mkdir(parents=True, exist_ok=True)
        if not (home / name).is_symlink():
            (home / name).symlink_to(common / name)
    return home


@contextmanager
def preparing(home: Path) -> Generator[Path]:
    """The folder for data, while no other worker prepares any: it finds what this one prepares."""
    data = home / "data"
    with waiting_lock(data / "preparing.lock"):
        yield data


@pytest.fixture(scope="session")
def ratings(shared_home: Path) -> Dataset:
    """MovieLens before the cut."""
    with preparing(shared_home) as data:
        return prepare_ratings(RatingsSource(), data, until=CUT)


@pytest.fixture(scope="session")
def customers(shared_home: Path) -> Dataset:
    """Telco churn."""
    with preparing(shared_home) as data:
        return prepare_customers(CustomersSource(), data)


@pytest.fixture(scope="session")
def trained_ratings(ratings: Dataset, shared_home: Path) -> TrainedModel:
    """The defaults, under torchrun with two ranks."""
    return run_job(ratings, shared_home / "jobs")


@pytest.fixture(scope="session")
def trained_customers(customers: Dataset, shared_home: Path) -> TrainedModel:
    """The defaults, under torchrun with two ranks."""
    return run_job(customers, shared_home / "jobs")


@pytest.fixture(scope="session")
def full_ratings(ratings: Dataset) -> Dataset:
    """What a version for service is trained on."""
    return refit_dataset(ratings)


@pytest.fixture(scope="session")
def refitted_ratings(
    ratings: Dataset, full_ratings: Dataset, trained_ratings: TrainedModel, shared_home: Path
) -> TrainedModel:
    """The version for service; the evaluation is found."""
    made = run_both(ratings, full_ratings, shared_home / "jobs")
    assert made.evaluated == trained_ratings
    return made.shipped


@pytest.fixture(scope="session")
def small_ratings(shared_home: Path) -> Dataset:
    """2,000 made ratings with text ids, so that an epoch takes a moment."""
    path = shared_home / "small.csv"
    small_table(2000).to_csv(path, index=False)
    with preparing(shared_home) as data:
        return prepare_ratings(RatingsSource(path=str(path)), data)


@pytest.fixture(scope="session")
def trained_small(small_ratings: Dataset, shared_home: Path) -> TrainedModel:
    """A job of two ranks that nobody interrupted."""
    return run_job(small_ratings, shared_home / "jobs", config=SMALL_CONFIG)


def small_table(rows: int, seed: int = 0) -> pd.DataFrame:
    """Ratings by 100 users of 80 items, a second apart."""
    random = np.random.default_rng(seed)
    users, items = random.integers(0, 100, rows), random.integers(0, 80, rows)
    taste = np.sin(users) + np.cos(items)
    return pd.DataFrame(
        {
            "user_id": [f"u{user}" for user in users],
            "item_id": [f"i{item}" for item in items],
            "rating": np.clip(np.round(6 + 2 * taste + random.normal(0, 1, rows)) / 2, 0.5, 5.0),
            "timestamp": np.arange(rows) + 1_000_000_000,
            "title": [f"Item {item}" for item in items],
        }
    )


def run_job(dataset: Dataset, jobs: Path, **changes: object) -> TrainedModel:
    """Train with the arguments that most tests want."""
    arguments = _arguments(jobs, changes)
    with in_turn(dataset, arguments):
        return train(dataset, **arguments)


def run_together(wanted: Sequence[tuple[Dataset, TrainConfig, Path]]) -> list[TrainedModel]:
    """Train several jobs, each in a folder for jobs, by two ranks under one torchrun, as an evaluation and its refit are: to
    start it takes longer than a small job. What they say on standard error lies with the first.
    """
    jobs = [_job(dataset, folder, 2, 42, config) for dataset, config, folder in wanted]
    _run(jobs, 250.0, None)
    return [read_trained(_model(job)) for job in jobs]


@contextmanager
def in_this_process() -> Generator[None]:
    """Jobs of one rank are done here while the block lasts, by the same worker: for tests of what comes of a training. A process
    for each needs seconds to import what is imported here already.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.launch._watch", _do_here)
        yield


def _do_here(jobs: list[Job], timeout_s: float, on_epoch: OnEpoch) -> None:
    import torch
    import torch.distributed as dist

    from training import tree_worker, worker
    from training.factorization import worker as factorization_worker

    tails = [EventTail(Path(job.folder) / PROGRESS) for job in jobs]
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        for job in jobs:
            assert job.ranks == 1
            if _worker(job.config) == tree_worker.__name__:
                tree_worker.run(job)
            elif _worker(job.config) == factorization_worker.__name__:
                factorization_worker._run(job, torch.device("cpu"), lambda: False)
            else:
                worker.Worker(job, torch.device("cpu")).run()
    finally:
        dist.destroy_process_group()
    _report(tails, on_epoch)


def run_both(dataset: Dataset, full: Dataset, jobs: Path, **changes: object) -> Trained:
    """Train and refit with the same arguments."""
    arguments = _arguments(jobs, changes)
    with in_turn(dataset, arguments):
        return train_and_refit(dataset, full, **arguments)


@contextmanager
def in_turn(dataset: Dataset, arguments: dict) -> Generator[None]:
    """Wait while another worker trains the same, which a job itself refuses to do: its model is found then."""
    fields = config_fields(arguments.get("config") or default_config(dataset.task))
    turn = f"{dataset.fingerprint[:16]}-{digest(fields, arguments['seed'])}.turn"
    with waiting_lock(arguments["jobs_folder"] / turn):
        yield


def _arguments(jobs: Path, changes: dict[str, object]) -> dict:
    return {"jobs_folder": jobs, "ranks": 2, "seed": 42, "timeout_s": 250.0} | changes
