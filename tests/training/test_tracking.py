import dataclasses
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest
import torch

from driftwheel.errors import ConfigurationError, NotFoundError, TrainingError
from driftwheel.settings import DriftSettings, Settings, TrackingSettings
from tests.training.samples import run_both, run_job
from tests.training.tracked import track_all, track_alone
from training.data.dataset import Dataset
from training.drift_record import record_drift
from training.job import TrainedModel
from training.mlflow_store import KEY_TAG, experiment_id, open_client
from training.models.store import load_model
from training.registry import CHALLENGER, CHAMPION, Registry
from training.run_record import fetch_file, read_run


@pytest.fixture(scope="session")
def settings(shared_home: Path) -> Settings:
    return Settings(home=shared_home)


@pytest.fixture(scope="session")
def runs(
    settings: Settings,
    ratings: Dataset,
    customers: Dataset,
    full_ratings: Dataset,
    refitted_ratings: TrainedModel,
    trained_customers: TrainedModel,
    shared_home: Path,
) -> dict[str, str]:
    made = run_both(ratings, full_ratings, shared_home / "jobs")
    assert made.shipped == refitted_ratings
    return {
        "rating": track_all(made, ratings, settings, full=full_ratings),
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
    assert run.data.params["factors"] == str(trained_ratings.config["factors"])
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
        ("rating", {"learning_curve.png", "residuals.png", "ranking.png"}),
        (
            "churn",
            {
                "learning_curve.png",
                "confusion_matrix.png",
                "cost_by_threshold.png",
                "roc_and_calibration.png",
                "importance.png",
            },
        ),
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


def test_what_a_worker_takes_from_the_machine_is_on_record(runs: dict[str, str], settings: Settings, trained_ratings):
    client = open_client(settings)
    for name in ("system/cpu_seconds", "system/peak_memory_megabytes"):
        history = client.get_metric_history(runs["rating"], name)
        assert sorted(metric.step for metric in history) == [event.epoch for event in trained_ratings.history]
        assert min(metric.value for metric in history) > 0
    peaks = [event.peak_memory_mb for event in trained_ratings.history]
    assert peaks == sorted(peaks)
    assert 50 < peaks[0] < 10_000  # an interpreter with torch, not a machine


def test_a_version_leads_to_its_run_and_its_data(
    runs: dict[str, str], settings: Settings, ratings: Dataset, full_ratings: Dataset, refitted_ratings: TrainedModel
):
    registry = Registry(settings)
    info = registry.info("lineage", registry.register(runs["rating"], "lineage", full_ratings, "with tags"))
    assert info.tags == {
        "task": "rating",
        "run_id": runs["rating"],
        "job": refitted_ratings.key,
        "data_fingerprint": full_ratings.fingerprint,
        "evaluation_fingerprint": ratings.fingerprint,
        "data_source": ratings.source,
        "data_until": ratings.data_until,
        "code_revision": refitted_ratings.code_revision,
    }
    run = read_run(settings, info.run_id)
    digests = {one.context: one.digest for one in run.inputs}
    assert full_ratings.fingerprint.startswith(digests["training"])
    assert ratings.fingerprint.startswith(digests["evaluation"])
    registry.set_tag("lineage", info.version, "seen", "yes")
    assert registry.info("lineage", info.version).tags["seen"] == "yes"
    registry.delete_tag("lineage", info.version, "seen")
    registry.delete_tag("lineage", info.version, "seen")
    assert "seen" not in registry.info("lineage", info.version).tags


def test_a_file_of_a_run_is_fetched_or_is_not_there(runs: dict[str, str], settings: Settings, tmp_path: Path):
    found = fetch_file(settings, runs["churn"], "evaluation/importance.json", tmp_path)
    assert found is not None
    assert {one["feature"] for one in msgspec.json.decode(found.read_bytes())} >= {"tenure", "contract"}
    assert fetch_file(settings, runs["rating"], "evaluation/importance.json", tmp_path) is None
    assert fetch_file(settings, runs["rating"], "none.html", tmp_path) is None


def test_a_failing_log_leaves_a_failed_run(
    trained_customers: TrainedModel, ratings: Dataset, customers: Dataset, tmp_path: Path
):
    settings = Settings(home=tmp_path)
    with pytest.raises((RuntimeError, KeyError)):  # another task's data
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


@pytest.mark.parametrize("scheme", ["http", "mysql+pymysql"])
def test_a_server_that_is_not_there_is_said_before_any_work_and_without_its_password(tmp_path: Path, scheme: str):
    with socket.socket() as bound:  # and not listening: nobody answers there, and nobody else can
        bound.bind(("127.0.0.1", 0))
        uri = f"{scheme}://me:secret@127.0.0.1:{bound.getsockname()[1]}/mlflow"
        with pytest.raises(
            ConfigurationError, match=f"tracking.uri: expected .* at {re.escape(scheme)}://127"
        ) as raised:
            open_client(Settings(home=tmp_path, tracking=TrackingSettings(uri=uri)))
    assert "secret" not in str(raised.value)
    assert not list(tmp_path.iterdir())


def test_drift_reports_go_to_the_run_of_the_version(settings: Settings, tmp_path: Path) -> None:
    own = settings.model_copy(
        update={"tracking": TrackingSettings(experiment="drift reports"), "drift": DriftSettings(keep_reports=2)}
    )
    client = open_client(own)
    run_id = client.create_run(experiment_id(client, own)).info.run_id
    for number, p_value in enumerate((0.5, 0.1, 1e-30)):
        report = tmp_path / f"report-{number}.html"
        report.write_text("<html>")
        record_drift(own, run_id, [report], {"Größe (%) missing/p_value": p_value}, at_s=1_700_000_000.0 + number)
    there = [one.path for one in client.list_artifacts(run_id, "drift")]
    assert there == ["drift/report-1.html", "drift/report-2.html"]
    points = client.get_metric_history(run_id, "drift/Gr__e ___ missing/p_value")
    assert [point.value for point in points] == [0.5, 0.1, 1e-30]
    assert [point.step for point in points] == [1_700_000_000, 1_700_000_001, 1_700_000_002]
    with pytest.raises(TrainingError, match="no drift report for run 0123"):
        record_drift(own, "0123", [], {"a/p_value": 0.5}, at_s=0.0)
    with pytest.raises(TrainingError, match="nothing is on record"):
        record_drift(Settings(home=tmp_path), "0123", [], {}, at_s=0.0)
