"""``driftwheel tune`` and the training after it, as a person runs them."""

import json
from pathlib import Path

import pytest

from driftwheel.settings import Settings
from tests.command_lines import called
from tests.training.samples import in_this_process, small_table
from training.config import RatingConfig
from training.mlflow_store import open_client
from training.tuning.best import Tuned, read_tuned, write_tuned
from training.tuning.plots import study_plots
from training.tuning.spaces import default_params

SMALL = {"learning_rate": 0.05, "batch_rows": "1024", "factors": 6, "vector_damping": 10.0, "bias_damping": 2.0}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tuned")


@pytest.fixture(scope="module")
def tuned(home: Path) -> dict:
    """What the command answers after a study of one trial."""
    small_table(2000).to_csv(home / "small.csv", index=False)
    words = ["--ratings", str(home / "small.csv"), "--trials", "1", "--ranks", "1", "--estimator", "sgd", "--json"]
    done = called(home / "home", "tune", "mf", *words)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_answer_and_the_record(tuned: dict, home: Path):
    assert tuned["params"] == default_params("rating", "sgd")
    assert [row["state"] for row in tuned["all_trials"]] == ["complete"]
    client = open_client(Settings(home=home / "home"))
    record = client.get_run(tuned["run_id"])
    assert record.data.metrics["best_valid_rmse"] == pytest.approx(tuned["value"])
    assert record.data.params["factors"] == str(RatingConfig().factors)
    assert [data.tags[0].value for data in record.inputs.dataset_inputs] == ["tuning"]
    plots = {file.path: file.file_size for file in client.list_artifacts(tuned["run_id"], "plots")}
    assert set(plots) == {"plots/history.png", "plots/importance.png", "plots/slice.png"}
    assert min(plots.values()) > 1000


def test_the_next_training_uses_what_was_found(tuned: dict, home: Path):
    settings = Settings(home=home / "home")
    found = read_tuned(settings.tuning_folder, "mf", "sgd")
    assert found is not None
    write_tuned(
        settings.tuning_folder, Tuned(**{name: getattr(found, name) for name in found.__slots__} | {"params": SMALL})
    )
    with in_this_process():
        done = called(home / "home", "train", "mf", "--estimator", "sgd", "--ranks", "1", "--json")
    answer = json.loads(done.stdout)
    assert answer["tuned"]["tuned_trial"] == "0"
    record = open_client(settings).get_run(answer["run_id"])
    assert record.data.params["factors"] == "6"
    assert record.data.params["batch_rows"] == "1024"
    assert record.data.tags["tuned"] == "true"
    assert record.data.tags["tuned_study"] == found.study


def test_a_study_without_trials_is_no_picture_less():
    names = [name for name, _ in study_plots([], {}, "valid_rmse")]
    assert names == ["history.png", "importance.png", "slice.png"]
