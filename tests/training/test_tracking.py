import dataclasses
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from driftwheel.errors import NotFoundError, TrainingError
from driftwheel.settings import Settings
from tests.training.samples import run_job
from training.data.dataset import Dataset, encoded_split
from training.inference import full_feed, predict
from training.job import TrainedModel
from training.mlflow_store import KEY_TAG, open_client, use_globally
from training.models.store import load_model
from training.registry import CHALLENGER, CHAMPION, Registry
from training.tracking import track


@pytest.fixture(scope="session")
def settings(shared_home: Path) -> Settings:
    return Settings(home=shared_home)


def track_alone(trained: TrainedModel, dataset: Dataset, settings: Settings) -> str:
    """As if nothing had been left to refit."""
    return track(trained, dataset, settings, shipped=trained, full=dataset)


@pytest.fixture(scope="session")
def runs(
    settings: Settings,
    ratings: Dataset,
    customers: Dataset,
    full_ratings: Dataset,
    trained_ratings: TrainedModel,
    refitted_ratings: TrainedModel,
    trained_customers: TrainedModel,
) -> dict[str, str]:
    return {
        "rating": track(trained_ratings, ratings, settings, shipped=refitted_ratings, full=full_ratings),
        "churn": track_alone(trained_customers, customers, settings),
    }


def test_a_run_tells_all(
    runs: dict[str, str],
    settings: Settings,
    trained_ratings: TrainedModel,
    refitted_ratings: TrainedModel,
    ratings: Dataset,
    full_ratings: Dataset,
):
    client = open_client(settings)
    run = client.get_run(runs["rating"])
    assert run.info.status == "FINISHED"
    assert run.data.params["factors"] == "16"
    assert run.data.params["data_fingerprint"] == full_ratings.fingerprint
    assert run.data.params["evaluation_fingerprint"] == ratings.fingerprint
    assert run.data.params["refit_rows"] == str(full_ratings.rows["train"])
    assert run.data.params["refit_epochs"] == str(refitted_ratings.refit_epochs)
    assert run.data.params["device"] == trained_ratings.device
    assert run.data.params["rows_train"] == str(ratings.rows["train"])
    assert run.data.tags["task"] == "rating"
    assert run.data.tags["data_until"] == ratings.data_until
    assert run.data.tags["code_revision"] == trained_ratings.code_revision
    assert run.data.metrics["test_rmse"] == pytest.approx(refitted_ratings.metrics["rmse"])
    history = client.get_metric_history(runs["rating"], "valid_metric")
    assert [m.value for m in sorted(history, key=lambda m: m.step)] == [
        event.valid_metric for event in trained_ratings.history
    ]
    used = {data.tags[0].value: data.dataset for data in run.inputs.dataset_inputs}
    for context, dataset in (("evaluation", ratings), ("training", full_ratings)):
        assert dataset.fingerprint.startswith(used[context].digest)
        assert msgspec.json.decode(used[context].profile)["rows"] == dataset.rows


@pytest.mark.parametrize(
    ("task", "plots"),
    [
        ("rating", {"learning_curve.png", "residuals.png"}),
        ("churn", {"learning_curve.png", "confusion_matrix.png", "cost_by_threshold.png", "roc_and_calibration.png"}),
    ],
)
def test_plots_are_kept(runs: dict[str, str], settings: Settings, task: str, plots: set[str]):
    client = open_client(settings)
    assert {Path(file.path).name for file in client.list_artifacts(runs[task], "plots")} == plots
    assert all(file.file_size > 1000 for file in client.list_artifacts(runs[task], "plots"))


def test_tracking_again_finds_the_run(runs, settings: Settings, trained_customers: TrainedModel, customers: Dataset):
    assert track_alone(trained_customers, customers, settings) == runs["churn"]


def test_a_cut_off_run_does_not_count(
    runs, settings: Settings, trained_customers: TrainedModel, customers: Dataset, tmp_path: Path
):
    elsewhere = settings.model_copy(update={"home": tmp_path})
    client = open_client(elsewhere)
    experiment = client.create_experiment(settings.tracking.experiment, (tmp_path / "artifacts").as_uri())
    cut_off = client.create_run(experiment, tags={KEY_TAG: trained_customers.key}).info.run_id
    with pytest.raises(TrainingError, match="has no model"):
        Registry(elsewhere).register(cut_off, "churn", customers, "")
    run = track_alone(trained_customers, customers, elsewhere)
    assert run != cut_off
    assert client.get_run(cut_off).info.status == "KILLED"
    assert client.get_run(run).info.status == "FINISHED"


def test_the_registry_numbers_versions_once(runs, settings: Settings, ratings: Dataset, customers: Dataset):
    registry = Registry(settings)
    assert registry.versions("films") == []
    assert registry.champion("films") is None
    first = registry.register(runs["rating"], "films", ratings, "the first")
    assert registry.register(runs["rating"], "films", ratings, "again") == first == 1
    assert registry.register(runs["churn"], "films", customers, "the second") == 2
    assert [(info.version, info.run_id, info.description) for info in registry.versions("films")] == [
        (1, runs["rating"], "the first"),
        (2, runs["churn"], "the second"),
    ]
    assert registry.run_of("films", 2) == runs["churn"]


def test_aliases_move(runs, settings: Settings, ratings: Dataset, customers: Dataset):
    registry = Registry(settings)
    for task, dataset in (("rating", ratings), ("churn", customers)):
        registry.register(runs[task], "moves", dataset, "")
    registry.set_alias("moves", CHAMPION, 1)
    registry.set_alias("moves", CHALLENGER, 2)
    assert (registry.champion("moves"), registry.challenger("moves")) == (1, 2)
    registry.set_alias("moves", CHAMPION, 2)
    registry.remove_alias("moves", CHALLENGER)
    registry.remove_alias("moves", CHALLENGER)
    assert (registry.champion("moves"), registry.challenger("moves")) == (2, None)
    assert [info.aliases for info in registry.versions("moves")] == [(), (CHAMPION,)]
    with pytest.raises(NotFoundError, match="moves has no version 9; registered versions: 1, 2"):
        registry.set_alias("moves", CHAMPION, 9)
    with pytest.raises(NotFoundError, match="registered versions: none"):
        registry.run_of("nothing", 1)


def test_a_version_can_be_rebuilt(
    runs, settings: Settings, ratings: Dataset, trained_ratings, refitted_ratings: TrainedModel, tmp_path: Path
):
    registry = Registry(settings)
    version = registry.register(runs["rating"], "rebuilt", ratings, "")
    fetched = registry.trained_model("rebuilt", version, tmp_path / "fetched")
    assert fetched == dataclasses.replace(refitted_ratings, folder=fetched.folder)
    assert fetched.metrics == refitted_ratings.metrics
    assert registry.trained_model("rebuilt", version, tmp_path / "fetched") == fetched
    for name, value in load_model(refitted_ratings.folder).state_dict().items():
        assert torch.equal(load_model(fetched.folder).state_dict()[name], value)


def test_mlflow_gives_the_model_back(runs, settings: Settings, customers: Dataset, trained_customers: TrainedModel):
    import mlflow.pytorch

    version = Registry(settings).register(runs["churn"], "loads", customers, "")
    use_globally(settings)
    loaded = mlflow.pytorch.load_model(f"models:/loads/{version}")
    model = load_model(trained_customers.folder)
    feed = {name: column[:9] for name, column in encoded_split(customers, "test").feed.items()}
    with torch.no_grad():
        np.testing.assert_allclose(loaded(*full_feed(model, feed)), predict(model, feed), atol=1e-6)


def test_a_failing_log_leaves_a_failed_run(
    trained_customers: TrainedModel, ratings: Dataset, customers: Dataset, tmp_path: Path
):
    settings = Settings(home=tmp_path)
    with pytest.raises(RuntimeError, match="size of tensor"):  # another task's data
        track_alone(trained_customers, ratings, settings)
    client = open_client(settings)
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    assert [run.info.status for run in runs] == ["FAILED"]


def test_jobs_are_shared_between_test_folders(ratings: Dataset, trained_ratings: TrainedModel, shared_home: Path):
    assert run_job(ratings, shared_home / "jobs") == trained_ratings


OPEN = """
import sys
from pathlib import Path
from driftwheel.settings import Settings
from training.mlflow_store import open_client
open_client(Settings(home=Path(sys.argv[1])))
"""


def test_a_database_is_made_whole_or_not_at_all(tmp_path: Path):
    process = subprocess.Popen([sys.executable, "-c", OPEN, str(tmp_path)])
    while not list((tmp_path / "mlflow").glob(".tmp-*.db")):
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert not (tmp_path / "mlflow" / "mlflow.db").exists()
    assert open_client(Settings(home=tmp_path)).search_experiments()
    assert (tmp_path / "mlflow" / "mlflow.db").exists()
