"""Jobs under a real torchrun."""

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from driftwheel.files import write_atomically
from exporters.export import export
from serving.recommendation.questions import Query
from serving.recommendation.recommender import read_recommender
from tests.training.samples import run_job, small_table
from training.config import AlsConfig, BayesConfig, IalsConfig, TrainConfig
from training.data.dataset import Dataset
from training.data.ratings import prepare_ratings
from training.data.sources import RatingsSource
from training.factorization.checkpoint import CHECKPOINT, Saved, load, save
from training.job import CHECKPOINTS, JOB, MODEL, PROGRESS, STDERR, TrainedModel
from training.models.store import load_model

TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone")

CONFIGS = {
    "bayes": BayesConfig(epochs=30, factors=3, burn_in=5, samples=20, kept_factors=6),
    "als": AlsConfig(epochs=6, factors=4),
    "ials": IalsConfig(epochs=4, factors=4),
}


def weights(trained: TrainedModel) -> dict[str, torch.Tensor]:
    return load_model(trained.folder).state_dict()


@pytest.mark.parametrize("estimator", CONFIGS)
def test_two_ranks_find_what_one_finds(small_ratings: Dataset, tmp_path: Path, estimator: str):
    config = CONFIGS[estimator]
    one, two = (run_job(small_ratings, tmp_path / str(ranks), ranks=ranks, config=config) for ranks in (1, 2))
    assert len(one.history) == len(two.history)
    user, item = torch.arange(1, 60), torch.arange(1, 60)
    scores = [load_model(trained.folder).raw_scores(user, item) for trained in (one, two)]
    torch.testing.assert_close(*scores, rtol=1e-3, atol=1e-3)
    assert one.metrics["rmse"] == pytest.approx(two.metrics["rmse"], abs=1e-3)
    assert [event.valid_metric for event in one.history] == pytest.approx(
        [event.valid_metric for event in two.history], abs=1e-3
    )


def test_a_seed_gives_the_same_bits(small_ratings: Dataset, tmp_path: Path):
    first, again = (weights(run_job(small_ratings, tmp_path / name, config=CONFIGS["bayes"])) for name in "ab")
    assert all(torch.equal(first[name], again[name]) for name in first)


@pytest.mark.parametrize("estimator", CONFIGS)
def test_a_version_recommends_to_users_it_knows_and_to_new_ones(small_ratings: Dataset, tmp_path: Path, estimator: str):
    """Export proves the graphs and the search. Here a user's own ratings, brought as a stranger's, rank much as before."""
    trained = run_job(small_ratings, tmp_path / "jobs", config=CONFIGS[estimator])
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
            "import sys; from pathlib import Path; from tests.training.samples import run_job;"
            "from training.data.dataset import read_dataset; from tests.training.factorization.test_worker import LONG;"
            "run_job(read_dataset(Path(sys.argv[1])), Path(sys.argv[2]), config=LONG)"
        )
        self.process = subprocess.Popen([sys.executable, "-c", code, str(dataset.folder), str(jobs)])
        self.jobs = jobs

    def folder(self) -> Path:
        return next(path.parent for path in self.jobs.glob(f"*/{PROGRESS}"))

    def wait_for_epochs(self, count: int) -> None:
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline:
            told = [path.read_bytes().count(b"\n") for path in self.jobs.glob(f"*/{PROGRESS}")]
            if told and told[0] >= count:
                return
            assert self.process.poll() is None
            time.sleep(0.02)
        raise AssertionError("no epoch was told of")


LONG = BayesConfig(epochs=400, factors=3, burn_in=5, samples=20, kept_factors=6)


@pytest.fixture(scope="module")
def uninterrupted(small_ratings: Dataset, tmp_path_factory: pytest.TempPathFactory) -> TrainedModel:
    return run_job(small_ratings, tmp_path_factory.mktemp("whole"), config=LONG)


def test_after_sigterm_it_goes_on_where_it_was(small_ratings: Dataset, uninterrupted: TrainedModel, tmp_path: Path):
    job = Interrupted(small_ratings, tmp_path)
    job.wait_for_epochs(20)
    (worker,) = _torchruns(job.process.pid)
    os.kill(worker, signal.SIGTERM)
    job.process.wait(90)
    assert job.process.returncode != 0
    assert (job.folder() / CHECKPOINTS / CHECKPOINT).exists()
    assert not (job.folder() / MODEL).exists()
    told: list[int] = []
    resumed = run_job(small_ratings, tmp_path, config=LONG, on_epoch=lambda event: told.append(event.epoch))
    assert told == list(range(1, LONG.epochs + 1))
    _assert_equal(resumed, uninterrupted)


def _torchruns(parent: int) -> list[int]:
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    found = [
        int(child) for child in children if b"torch.distributed.run" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]
    return found or [one for child in children for one in _torchruns(int(child))]


def test_a_damaged_checkpoint_is_said_and_training_starts_anew(
    small_ratings: Dataset, uninterrupted: TrainedModel, tmp_path: Path
):
    folder = tmp_path / uninterrupted.key
    path = folder / CHECKPOINTS / CHECKPOINT
    save(path, Saved((), {"users": torch.ones(3)}))
    content = bytearray(path.read_bytes())
    assert load(path) is not None
    content[-1] ^= 1  # a number among the weights: still a safetensors file
    write_atomically(path, content)
    again = run_job(small_ratings, tmp_path, config=LONG)
    assert "is damaged, training starts anew" in (folder / STDERR).read_text()
    _assert_equal(again, uninterrupted)


def _assert_equal(left: TrainedModel, right: TrainedModel) -> None:
    tables = weights(left), weights(right)
    assert all(torch.equal(tables[0][name], tables[1][name]) for name in tables[0])


def test_least_squares_stop_early_and_keep_the_best(small_ratings: Dataset, tmp_path: Path):
    config: TrainConfig = AlsConfig(epochs=60, factors=12, vector_damping=0.05, patience=2)
    trained = run_job(small_ratings, tmp_path, config=config)
    metrics = [event.valid_metric for event in trained.history]
    assert len(trained.history) < 60
    assert trained.best_epoch == int(np.argmin(metrics)) + 1
    assert len(trained.history) == trained.best_epoch + 2
    shorter = run_job(small_ratings, tmp_path, config=dataclasses.replace(config, epochs=trained.best_epoch))
    _assert_equal(trained, shorter)


@pytest.mark.parametrize("estimator", CONFIGS)
def test_more_ranks_than_users_are_no_trouble(tmp_path: Path, estimator: str):
    """One user's ratings: the second rank holds no user."""
    table = small_table(30)
    table["user_id"], table["item_id"] = "u1", [f"i{n}" for n in range(30)]
    table.to_csv(tmp_path / "one.csv", index=False)
    dataset = prepare_ratings(RatingsSource(path=str(tmp_path / "one.csv")), tmp_path / "data")
    trained = run_job(dataset, tmp_path / "jobs", config=CONFIGS[estimator])
    assert np.isfinite(trained.metrics["rmse"])


def test_a_rank_that_is_started_again_leaves_finished_jobs_alone(small_ratings: Dataset, tmp_path: Path):
    """As torchrun does after a failure in a later job: the first one's model is there, and stays as it is."""
    trained = run_job(small_ratings, tmp_path, ranks=1, config=CONFIGS["als"])
    made = (trained.folder / "result.json").stat().st_mtime_ns
    again = subprocess.run(
        [*TORCHRUN, "-m", "training.factorization.worker", str(trained.folder.parent / JOB)],
        capture_output=True,
        text=True,
    )
    assert again.returncode == 0, again.stderr
    assert (trained.folder / "result.json").stat().st_mtime_ns == made
