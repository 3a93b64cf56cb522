"""scikit-learn's trees, from the launcher to a graph that is the model."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from driftwheel.errors import ExportError, TrainingError
from driftwheel.settings import Settings
from exporters.export import export
from tests.training.samples import run_both, run_job
from tests.training.tracked import track_alone
from training.config import BoostingConfig, ForestConfig, TrainConfig, config_fields, config_from
from training.data.dataset import Dataset, EncodedSplit, encoded_split, read_split
from training.data.refit import refit_dataset
from training.evaluation import evaluate_bundle
from training.inference import predict
from training.job import TrainedModel
from training.mlflow_store import open_client, quiet, use_globally
from training.models.graph import EVIDENCE, GRAPH, GraphModel
from training.models.store import load_any
from training.registry import CHAMPION, Registry
from training.trees import encoder_of

CONFIGS: dict[str, TrainConfig] = {
    "forest": ForestConfig(trees=60, missed_cost=3.0),
    "boosting": BoostingConfig(epochs=120, learning_rate=0.1),
}


@pytest.fixture(params=list(CONFIGS))
def trained(request: pytest.FixtureRequest, customers: Dataset, shared_home: Path) -> TrainedModel:
    return run_job(customers, shared_home / "jobs", config=CONFIGS[request.param])


@pytest.mark.parametrize("config", CONFIGS.values())
def test_a_configuration_survives_json(config: TrainConfig):
    assert config_from("churn", config_fields(config)) == config


def test_churn_is_learned(trained: TrainedModel):
    assert trained.metrics["auc"] > 0.82
    assert trained.metrics["log_loss"] < 0.45
    assert trained.ranks == 1
    assert trained.best_epoch == 1 + int(np.argmin([event.valid_metric for event in trained.history]))
    if trained.config["estimator"] == "forest":
        assert trained.metrics["threshold"] == 0.25


def test_nothing_is_pickled(trained: TrainedModel):
    assert {file.name for file in trained.folder.iterdir()} == {GRAPH, EVIDENCE, "result.json"}


def test_a_refit_has_as_many_trees_as_were_best(customers: Dataset, shared_home: Path):
    made = run_both(customers, refit_dataset(customers), shared_home / "jobs", config=CONFIGS["boosting"])
    assert made.shipped.refit_epochs == made.evaluated.best_epoch < 120
    assert made.shipped.refit_rows == customers.rows["train"] + customers.rows["valid"]
    assert made.shipped.history == made.evaluated.history


def test_it_is_exported_without_torchscript(trained: TrainedModel, customers: Dataset, tmp_path: Path):
    bundle = export(trained, customers, name="churn", version=1, run_id="r", models=tmp_path)
    assert "model.ts" not in bundle.manifest.files
    assert {case.format for case in bundle.manifest.parity} == {"onnx"}
    assert {case.case for case in bundle.manifest.parity} >= {
        "1 rows",
        "257 rows",
        "unknown category",
        "missing number",
    }
    assert max(case.max_abs_difference for case in bundle.manifest.parity) <= 1e-5
    measured = evaluate_bundle(bundle, customers, config_from("churn", trained.config))
    assert measured == {key: pytest.approx(value, abs=1e-5) for key, value in trained.metrics.items()}
    assert np.isfinite(bundle.golden()["output:churn_probability"]).all()


def test_a_graph_that_answers_otherwise_is_refused(trained: TrainedModel, customers: Dataset, tmp_path: Path):
    folder = tmp_path / "model"
    folder.mkdir()
    for file in trained.folder.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    model = load_any(folder)
    assert isinstance(model, GraphModel)
    case = model.evidence["7 rows"]
    wrong = {f"7 rows:{name}": array for name, array in case.items()} | {"7 rows:answer": case["answer"] + 0.01}
    np.savez(folder / EVIDENCE, **wrong)
    moved = dataclasses.replace(trained, folder=folder)
    with pytest.raises(ExportError, match="onnx differs from the model by 0.01.* on '7 rows'"):
        export(moved, customers, name="churn", version=1, run_id="r", models=tmp_path / "models")
    (folder / EVIDENCE).write_bytes(b"no archive")
    with pytest.raises(TrainingError, match="missing or damaged"):
        load_any(folder)


def test_the_encoder_takes_what_is_missing_unknown_or_infinite():
    number = np.array([[1.0, 5.0], [3.0, 5.0], [np.nan, 5.0], [2.0, np.inf]], dtype=np.float32)
    train = EncodedSplit({"category": np.array([[1], [2], [0], [2]]), "number": number}, np.zeros(4, np.float32))
    rows = encoder_of(train).encode(train.feed)
    assert rows[:, :2].tolist() == [[1, 0], [0, 1], [0, 0], [0, 1]]
    assert rows[:, 2:4].tolist() == [[1, 5], [3, 5], [2, 5], [2, 5]]
    assert rows[:, 4:].tolist() == [[0, 0], [0, 0], [1, 0], [0, 0]]


@pytest.mark.parametrize("left_out", ["category", "number"])
def test_customers_of_one_kind(left_out: str, trained: TrainedModel, customers: Dataset):
    """The graph has the inputs that there are."""
    from training.trees import boosting, graph_of

    split = encoded_split(customers, "valid")
    feed = {name: column for name, column in split.feed.items() if name != left_out}
    encoder = encoder_of(EncodedSplit(feed, split.label))
    estimator = boosting(BoostingConfig(), 5, seed=1).fit(encoder.encode(feed), split.label)
    model = GraphModel(graph_of(estimator, encoder, feed, "p"), {})
    assert model.inputs == tuple(feed)
    np.testing.assert_allclose(predict(model, feed), estimator.predict_proba(encoder.encode(feed))[:, 1], atol=1e-6)


def test_it_is_tracked_and_registered(customers: Dataset, shared_home: Path, tmp_path: Path):
    """A version of the registry gives its model back, as weights to be exported and through MLflow."""
    with quiet():  # MLflow warns about type hints of its own
        import mlflow.pyfunc

    settings = Settings(home=shared_home)
    made = run_job(customers, shared_home / "jobs", config=CONFIGS["boosting"])
    run_id = track_alone(made, customers, settings)
    run = open_client(settings).get_run(run_id)
    assert run.data.params["estimator"] == "boosting"
    assert run.data.metrics["test_ece"] == pytest.approx(made.metrics["ece"])
    registry = Registry(settings)
    version = registry.register(run_id, "trees", customers, "")
    registry.set_alias("trees", CHAMPION, version)
    fetched = registry.trained_model("trees", version, tmp_path / "fetched")
    feed = encoded_split(customers, "test").feed
    expected = predict(load_any(made.folder), feed)
    np.testing.assert_array_equal(predict(load_any(fetched.folder), feed), expected)
    use_globally(settings)
    with quiet():
        answers = mlflow.pyfunc.load_model("models:/trees@champion").predict(read_split(customers, "test").to_pandas())
    np.testing.assert_allclose(answers["churn_probability"], expected, atol=1e-6)


def test_trees_learn_nothing_from_ratings(tmp_path: Path):
    command = [sys.executable, "-m", "driftwheel", "--home", str(tmp_path), "train", "mf", "--estimator", "forest"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert "one that learns from ratings (bayes, sgd, als, ials), got 'forest'" in done.stderr
    assert not list(tmp_path.glob("data/*"))
