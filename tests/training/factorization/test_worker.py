"""Jobs under a real torchrun."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from driftwheel.files import write_atomically
from exporters.export import export
from serving.recommendation.questions import Query
from serving.recommendation.recommender import read_recommender
from tests.training.samples import run_job, run_together, small_table
from training.config import AlsConfig, BayesConfig, IalsConfig, TrainConfig, config_fields
from training.data.dataset import Dataset
from training.data.ratings import prepare_ratings
from training.data.sources import RatingsSource
from training.factorization.checkpoint import CHECKPOINT, Saved, load, save
from training.factorization.worker import Worker
from training.job import CHECKPOINTS, JOB, MODEL, PROGRESS, STDERR, TrainedModel, read_trained
from training.launch import _job
from training.models.store import load_model

TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone")

CONFIGS = {
    "bayes": BayesConfig(epochs=30, factors=3, burn_in=5, samples=20, kept_factors=6),
    "als": AlsConfig(epochs=6, factors=4),
    "ials": IalsConfig(epochs=4, factors=4),
}


LONG = BayesConfig(epochs=400, factors=3, burn_in=5, samples=20, kept_factors=6)
STOPS_EARLY = AlsConfig(epochs=60, factors=12, vector_damping=0.05, patience=2)


def weights(trained: TrainedModel) -> dict[str, torch.Tensor]:
    return load_model(trained.folder).state_dict()


@pytest.fixture(scope="module")
def one_user(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """One user's ratings: the second rank holds no user."""
    folder = tmp_path_factory.mktemp("one-user")
    table = small_table(30)
    table["user_id"], table["item_id"] = "u1", [f"i{n}" for n in range(30)]
    table.to_csv(folder / "one.csv", index=False)
    return prepare_ratings(RatingsSource(path=str(folder / "one.csv")), folder / "data")


@pytest.fixture(scope="module")
def done(
    small_ratings: Dataset, one_user: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, TrainedModel]:
    """What nobody interrupts, by two ranks: each estimator, also for one user, a long job, and one that stops early."""
    jobs = tmp_path_factory.mktemp("done")
    wanted = {name: (small_ratings, config, jobs) for name, config in CONFIGS.items()}
    wanted |= {f"{name} for one user": (one_user, config, jobs) for name, config in CONFIGS.items()}
    wanted |= {"long": (small_ratings, LONG, jobs), "stops early": (small_ratings, STOPS_EARLY, jobs)}
    return dict(zip(wanted, run_together(list(wanted.values())), strict=True))


@pytest.fixture(scope="module")
def again(
    small_ratings: Dataset, done: dict[str, TrainedModel], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, TrainedModel]:
    """By two ranks, once more: a job beside a damaged checkpoint, the same job without one, and as many epochs as were best of
    what stops early.
    """
    damaged, whole = (tmp_path_factory.mktemp(name) for name in ("damaged", "again"))
    path = damaged / done["bayes"].key / CHECKPOINTS / CHECKPOINT
    save(path, Saved((), {"users": torch.ones(3)}))
    content = bytearray(path.read_bytes())
    assert load(path) is not None
    content[-1] ^= 1  # a number among the weights: still a safetensors file
    write_atomically(path, content)
    shorter = dataclasses.replace(STOPS_EARLY, epochs=done["stops early"].best_epoch)
    wanted = {
        "damaged": (small_ratings, CONFIGS["bayes"], damaged),
        "bayes": (small_ratings, CONFIGS["bayes"], whole),
        "shorter": (small_ratings, shorter, whole),
    }
    return dict(zip(wanted, run_together(list(wanted.values())), strict=True))


def done_by_one(dataset: Dataset, jobs: Path, config: TrainConfig) -> TrainedModel:
    """By one rank, which is this process. It wants a process group."""
    job = _job(dataset, jobs, 1, 42, config)
    write_atomically(Path(job.folder) / JOB, msgspec.json.encode(job))
    Worker(job, torch.device("cpu")).run()
    return read_trained(Path(job.folder) / MODEL)


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("estimator", CONFIGS)
def test_two_ranks_find_what_one_finds(
    small_ratings: Dataset, done: dict[str, TrainedModel], tmp_path: Path, estimator: str
):
    one, two = done_by_one(small_ratings, tmp_path, CONFIGS[estimator]), done[estimator]
    assert (one.ranks, two.ranks) == (1, 2)
    assert len(one.history) == len(two.history)
    user, item = torch.arange(1, 60), torch.arange(1, 60)
    scores = [load_model(trained.folder).raw_scores(user, item) for trained in (one, two)]
    torch.testing.assert_close(*scores, rtol=1e-3, atol=1e-3)
    assert one.metrics["rmse"] == pytest.approx(two.metrics["rmse"], abs=1e-3)
    assert [event.valid_metric for event in one.history] == pytest.approx(
        [event.valid_metric for event in two.history], abs=1e-3
    )


def test_a_seed_gives_the_same_bits(done: dict[str, TrainedModel], again: dict[str, TrainedModel]):
    _assert_equal(done["bayes"], again["bayes"])


@pytest.mark.parametrize("estimator", CONFIGS)
def test_a_version_recommends_to_users_it_knows_and_to_new_ones(
    small_ratings: Dataset, done: dict[str, TrainedModel], tmp_path: Path, estimator: str
):
    """Export proves the graphs and the search. Here a user's own ratings, brought as a stranger's, rank much as before."""
    trained = done[estimator]
    bundle = export(trained, small_ratings, name="m", version=1, run_id="r", models=tmp_path / "models")
    vocabularies = small_ratings.read_vocabularies()
    recommender = read_recommender(bundle.folder, vocabularies, threads=1, label="m")
    train = small_ratings.path("train.parquet")
    import pandas as pd

    table = pd.read_parquet(train)
    nothing = np.empty(0, dtype=np.int64)
    agreed = 0
    for user in table["user_id"].unique()[:20]:
        mine = table[table["user_id"] == user]
        rows = vocabularies["item_id"].encode(mine["item_id"].to_numpy()) - 1
        index = vocabularies["user_id"].index(user)
        known = recommender.ranked(index, rows, 10)[0]
        (answer,) = recommender([[Query(0, 10, nothing, None, rows, mine["rating"].to_numpy())]])
        assert not isinstance(answer, Exception)
        agreed += len(set(known.tolist()) & set(vocabularies["item_id"].encode(answer[0].items) - 1))
    assert agreed >= 120  # of 200; by chance it would be about 30


class Interrupted:
    """A job of very many epochs, ended from outside when it has done a few."""

    def __init__(self, dataset: Dataset, jobs: Path) -> None:
        code = (
            "import json, sys; from pathlib import Path; from tests.training.samples import run_job;"
            "from training.config import config_from; from training.data.dataset import read_dataset;"
            "config = config_from('rating', json.loads(sys.argv[3]));"
            "run_job(read_dataset(Path(sys.argv[1])), Path(sys.argv[2]), config=config)"
        )
        long = json.dumps(config_fields(LONG))
        self.process = subprocess.Popen([sys.executable, "-c", code, str(dataset.folder), str(jobs), long])
        self.jobs = jobs

    def folder(self) -> Path:
        return next(path.parent for path in self.jobs.glob(f"*/{PROGRESS}"))

    def wait_for_epochs(self, count: int) -> None:
        deadline = time.monotonic() + 200
        while time.monotonic() < deadline:
            told = [path.read_bytes().count(b"\n") for path in self.jobs.glob(f"*/{PROGRESS}")]
            if told and told[0] >= count:
                return
            assert self.process.poll() is None
            time.sleep(0.02)
        raise AssertionError("no epoch was told of")


def test_after_sigterm_it_goes_on_where_it_was(small_ratings: Dataset, done: dict[str, TrainedModel], tmp_path: Path):
    job = Interrupted(small_ratings, tmp_path)
    job.wait_for_epochs(20)
    (worker,) = _torchruns(job.process.pid)
    os.kill(worker, signal.SIGTERM)
    job.process.wait(200)
    assert job.process.returncode != 0
    assert (job.folder() / CHECKPOINTS / CHECKPOINT).exists()
    assert not (job.folder() / MODEL).exists()
    told: list[int] = []
    resumed = run_job(small_ratings, tmp_path, config=LONG, on_epoch=lambda event: told.append(event.epoch))
    assert told == list(range(1, LONG.epochs + 1))
    _assert_equal(resumed, done["long"])


def _torchruns(parent: int) -> list[int]:
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    found = [
        int(child) for child in children if b"torch.distributed.run" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]
    return found or [one for child in children for one in _torchruns(int(child))]


def test_a_damaged_checkpoint_is_said_and_training_starts_anew(
    done: dict[str, TrainedModel], again: dict[str, TrainedModel]
):
    assert "is damaged, training starts anew" in (again["damaged"].folder.parent / STDERR).read_text()
    _assert_equal(done["bayes"], again["damaged"])


def _assert_equal(left: TrainedModel, right: TrainedModel) -> None:
    tables = weights(left), weights(right)
    assert all(torch.equal(tables[0][name], tables[1][name]) for name in tables[0])


def test_least_squares_stop_early_and_keep_the_best(done: dict[str, TrainedModel], again: dict[str, TrainedModel]):
    trained = done["stops early"]
    metrics = [event.valid_metric for event in trained.history]
    assert len(trained.history) < 60
    assert trained.best_epoch == int(np.argmin(metrics)) + 1
    assert len(trained.history) == trained.best_epoch + 2
    _assert_equal(trained, again["shorter"])


@pytest.mark.parametrize("estimator", CONFIGS)
def test_more_ranks_than_users_are_no_trouble(done: dict[str, TrainedModel], estimator: str):
    trained = done[f"{estimator} for one user"]
    assert trained.ranks == 2
    assert np.isfinite(trained.metrics["rmse"])


@pytest.mark.usefixtures("alone")
def test_a_rank_that_is_started_again_leaves_finished_jobs_alone(small_ratings: Dataset, tmp_path: Path):
    """As torchrun does after a failure in a later job: the first one's model is there, and stays as it is."""
    trained = done_by_one(small_ratings, tmp_path, CONFIGS["als"])
    made = (trained.folder / "result.json").stat().st_mtime_ns
    again = subprocess.run(
        [*TORCHRUN, "-m", "training.factorization.worker", str(trained.folder.parent / JOB)],
        capture_output=True,
        text=True,
    )
    assert again.returncode == 0, again.stderr
    assert (trained.folder / "result.json").stat().st_mtime_ns == made
