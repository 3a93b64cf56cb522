"""Real data and real training jobs, made once for a test session: preparing and training again finds what is there."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from training.config import RatingConfig
from training.data.customers import prepare_customers
from training.data.dataset import Dataset
from training.data.ratings import prepare_ratings
from training.data.refit import refit_dataset
from training.data.sources import CustomersSource, RatingsSource
from training.job import TrainedModel
from training.launch import Trained, train, train_and_refit

CUT = "2012-06-09"
SMALL_CONFIG = RatingConfig(epochs=80, patience=80, batch_rows=500, factors=4)


@pytest.fixture(scope="session")
def shared_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same folder in every test folder of the session."""
    return tmp_path_factory.getbasetemp() / "shared-home"


@pytest.fixture(scope="session")
def ratings(shared_home: Path) -> Dataset:
    """MovieLens before the cut."""
    return prepare_ratings(RatingsSource(), shared_home / "data", until=CUT)


@pytest.fixture(scope="session")
def customers(shared_home: Path) -> Dataset:
    """Telco churn."""
    return prepare_customers(CustomersSource(), shared_home / "data")


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
    path.parent.mkdir(parents=True, exist_ok=True)
    small_table(2000).to_csv(path, index=False)
    return prepare_ratings(RatingsSource(path=str(path)), shared_home / "data")


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
    return train(dataset, **_arguments(jobs, changes))


def run_both(dataset: Dataset, full: Dataset, jobs: Path, **changes: object) -> Trained:
    """Train and refit with the same arguments."""
    return train_and_refit(dataset, full, **_arguments(jobs, changes))


def _arguments(jobs: Path, changes: dict[str, object]) -> dict:
    return {"jobs_folder": jobs, "ranks": 2, "seed": 42, "timeout_s": 120.0} | changes
