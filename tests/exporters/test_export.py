import dataclasses
import logging
import shutil
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

from driftwheel.bundle import Bundle, bundle_folder, list_versions, read_bundle
from driftwheel.errors import BundleError, DataError, ExportError
from driftwheel.preprocessing import encode
from exporters.export import export, seen_items
from exporters.model_graph import graph_writer
from training.config import RatingConfig, default_config
from training.data.customers import prepare_customers
from training.data.dataset import Dataset, encoded_split, reference_split
from training.data.sources import CustomersSource
from training.evaluation import evaluate_bundle, share_seen
from training.inference import predict
from training.job import TrainedModel
from training.models.store import load_model, save_model
from training.objectives import build_objective

CREATED = "2026-01-02T03:04:05+00:00"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def films(refitted_ratings: TrainedModel, full_ratings: Dataset, models: Path) -> Bundle:
    return export(
        refitted_ratings, full_ratings, name="films", version=1, run_id="r1", models=models, created_at=CREATED
    )


@pytest.fixture(scope="module")
def churn(trained_customers: TrainedModel, customers: Dataset, models: Path) -> Bundle:
    return export(trained_customers, customers, name="churn", version=3, run_id="r2", models=models)


@pytest.fixture(scope="module")
def evaluated(trained_ratings: TrainedModel, ratings: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Of the weights that know nothing of the test split."""
    models = tmp_path_factory.mktemp("evaluated")
    return export(trained_ratings, ratings, name="evaluated", version=1, run_id="r", models=models)


@pytest.fixture(params=["films", "churn"])
def bundle(request: pytest.FixtureRequest) -> Bundle:
    return request.getfixturevalue(request.param)


def session(bundle: Bundle, file: str):
    import onnxruntime as ort

    return ort.InferenceSession(bundle.path(file).read_bytes(), providers=["CPUExecutionProvider"])


def test_the_manifest_tells_where_it_came_from(films: Bundle, refitted_ratings: TrainedModel, full_ratings: Dataset):
    manifest = films.manifest
    assert (manifest.name, manifest.version, manifest.task) == ("films", 1, "rating")
    assert manifest.created_at == CREATED
    assert manifest.training.run_id == "r1"
    assert manifest.training.data_fingerprint == full_ratings.fingerprint
    assert manifest.training.data_until == full_ratings.data_until
    assert manifest.training.rows == full_ratings.rows["train"]
    assert manifest.metrics == refitted_ratings.metrics


def test_graphs_have_the_names_of_the_signature(bundle: Bundle):
    graph = session(bundle, "model.onnx")
    signature = bundle.manifest.signature
    assert {i.name for i in graph.get_inputs()} == {spec.graph_input for spec in signature.inputs}
    assert [o.name for o in graph.get_outputs()] == [spec.name for spec in signature.outputs]
    assert all(isinstance(i.shape[0], str) for i in graph.get_inputs()), "the batch size must be free"


def test_parity_is_on_record(bundle: Bundle):
    formats = {case.format for case in bundle.manifest.parity}
    assert formats >= {"onnx", "torchscript"}
    rows = {case.rows for case in bundle.manifest.parity}
    assert rows >= {1, 7, 257}
    cases = {case.case for case in bundle.manifest.parity}
    assert "unknown, all inputs" in cases
    assert max(case.max_abs_difference for case in bundle.manifest.parity) <= 1e-5
    if bundle.manifest.task == "churn":
        assert "missing, all inputs" in cases


def test_golden_requests_give_the_golden_answers(bundle: Bundle):
    golden = bundle.golden()
    signature = bundle.manifest.signature
    tensors = {spec.name: golden[f"input:{spec.name}"] for spec in signature.inputs}
    feed = encode(signature, bundle.vocabularies(), tensors)
    output = signature.outputs[0].name
    (answers,) = session(bundle, "model.onnx").run([output], feed)
    np.testing.assert_allclose(answers, golden[f"output:{output}"], atol=1e-5)
    assert len(answers) > 257


def test_the_reference_is_a_split_not_trained_on(bundle: Bundle, request: pytest.FixtureRequest):
    dataset = request.getfixturevalue("ratings" if bundle.manifest.task == "rating" else "customers")
    reference = pq.read_table(bundle.path("reference.parquet")).to_pandas()
    split = reference_split(dataset)
    assert split == ("reference" if bundle.manifest.task == "rating" else "test")
    held_out = pq.read_table(dataset.path(f"{split}.parquet")).to_pandas()
    signature = bundle.manifest.signature
    for spec in signature.inputs:
        pd.testing.assert_series_equal(reference[f"in_{spec.name}"], held_out[spec.name], check_names=False)
    np.testing.assert_array_equal(reference["label"], held_out[signature.label])
    assert ("at" in reference) == (bundle.manifest.task == "rating")
    if "at" in reference:
        assert (reference["at"].dt.as_unit("s").astype("int64") == held_out["at"]).all()


@pytest.mark.parametrize(("exported", "data"), [("evaluated", "ratings"), ("churn", "customers")])
def test_evaluation_agrees_with_training(exported: str, data: str, request: pytest.FixtureRequest):
    bundle, dataset = (request.getfixturevalue(name) for name in (exported, data))
    assert (
        evaluate_bundle(bundle, dataset).items()
        <= {key: pytest.approx(value, abs=1e-5) for key, value in bundle.manifest.metrics.items()}.items()
    )


def test_items_and_seen_follow_the_vocabulary(films: Bundle, ratings: Dataset):
    items = pq.read_table(films.path("items.parquet"))
    assert items["item_id"].to_pylist() == list(films.vocabularies()["item_id"].entries)
    splits = [
        pq.read_table(ratings.path(f"{name}.parquet")).to_pandas() for name in ("train", "reference", "valid", "test")
    ]
    with np.load(films.path("seen.npz"), allow_pickle=False) as seen:
        offsets, rated = seen["offsets"], seen["items"]
    users = films.vocabularies()["user_id"]
    assert len(offsets) == users.table_size + 1
    assert offsets[1] == 0, "nobody knows what the unknown user rated"
    user = users.entries[10]
    expected = films.vocabularies()["item_id"].encode(
        pd.concat([split[split["user_id"] == user]["item_id"] for split in splits]).to_numpy()
    )
    np.testing.assert_array_equal(rated[offsets[11] : offsets[12]], np.sort(expected[expected > 0]))


def test_seen_items_of_unsorted_rows():
    feed = {"user_index": np.array([2, 1, 2, 0]), "item_index": np.array([5, 4, 3, 9])}
    offsets, items = seen_items(feed, 4)
    assert [items[offsets[u] : offsets[u + 1]].tolist() for u in range(4)] == [[9], [4], [3, 5], []]


def test_an_existing_bundle_is_returned(
    films: Bundle, refitted_ratings: TrainedModel, full_ratings: Dataset, models: Path
):
    before = films.path("model.onnx").stat().st_mtime_ns
    again = export(refitted_ratings, full_ratings, name="films", version=1, run_id="r1", models=models)
    assert again == films
    assert films.path("model.onnx").stat().st_mtime_ns == before
    with pytest.raises(ExportError, match="was made from run r1, not from r9"):
        export(refitted_ratings, full_ratings, name="films", version=1, run_id="r9", models=models)


def test_a_graph_that_has_been_made_is_written_again(
    trained_customers: TrainedModel, customers: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    write = graph_writer(trained_customers, customers)
    write(tmp_path / "recorded.onnx")
    monkeypatch.setattr("exporters.model_graph.write_onnx", None)
    bundle = export(
        trained_customers, customers, name="churn", version=1, run_id="r", models=tmp_path, write_graph=write
    )
    assert bundle.path("model.onnx").read_bytes() == (tmp_path / "recorded.onnx").read_bytes()


def test_a_damaged_bundle_is_made_anew(films: Bundle, trained_ratings, ratings: Dataset, tmp_path: Path):
    folder = bundle_folder(tmp_path, "films", 1)
    shutil.copytree(films.folder, folder)
    with (folder / "model.onnx").open("r+b") as file:
        file.seek(100)
        file.write(b"\x00\xff")
    with pytest.raises(BundleError, match="damaged"):
        read_bundle(tmp_path, "films", 1)
    export(trained_ratings, ratings, name="films", version=1, run_id="r1", models=tmp_path)
    assert read_bundle(tmp_path, "films", 1).manifest.training.run_id == "r1"


def test_a_broken_graph_is_refused(trained_customers, customers: Dataset, tmp_path: Path, monkeypatch):
    """The weights that the exporter is given are not those of the model: parity must see it."""
    import exporters.model_graph as module

    real = module.write_onnx

    def broken(path, graph, example, inputs, outputs):
        other = load_model(trained_customers.folder)
        other.wide.weight.data += 0.01
        real(path, other, example, inputs, outputs)

    monkeypatch.setattr(module, "write_onnx", broken)
    with pytest.raises(ExportError, match=r"onnx differs from the model by .* on '1 rows'"):
        export(trained_customers, customers, name="churn", version=1, run_id="r", models=tmp_path)
    assert list_versions(tmp_path, "churn") == []
    assert list(tmp_path.rglob("*.onnx")) == []


def test_a_model_that_answers_nan_is_refused(trained_ratings, ratings: Dataset, tmp_path: Path):
    model = load_model(trained_ratings.folder)
    model.item_bias.weight.data[1:] = torch.nan
    folder = tmp_path / "trained"
    folder.mkdir()
    save_model(folder, model)
    with pytest.raises(ExportError, match="not a number"):
        export(
            dataclasses.replace(trained_ratings, folder=folder),
            ratings,
            name="films",
            version=1,
            run_id="r",
            models=tmp_path,
        )


def test_nothing_is_printed_and_nothing_warned(trained_customers, customers: Dataset, tmp_path: Path, capfd, caplog):
    with warnings.catch_warnings(), caplog.at_level(logging.WARNING):
        warnings.simplefilter("error")
        export(trained_customers, customers, name="churn", version=1, run_id="r", models=tmp_path)
    assert capfd.readouterr() == ("", "")
    assert not caplog.records


def fresh(dataset: Dataset, like: TrainedModel, folder: Path) -> TrainedModel:
    """A model that nobody trained, which is as good to export."""
    torch.manual_seed(0)
    folder.mkdir()
    config = RatingConfig() if dataset.task == "rating" else default_config(dataset.task)
    save_model(folder, build_objective(dataset, encoded_split(dataset, "train"), config).model)
    return dataclasses.replace(like, folder=folder)


def test_text_ids(small_ratings: Dataset, trained_ratings: TrainedModel, tmp_path: Path):
    trained = fresh(small_ratings, trained_ratings, tmp_path / "trained")
    bundle = export(trained, small_ratings, name="text", version=1, run_id="r", models=tmp_path)
    assert {spec.datatype for spec in bundle.manifest.signature.inputs} == {"BYTES"}
    expected = predict(load_model(trained.folder), encoded_split(small_ratings, reference_split(small_ratings)).feed)
    reference = pq.read_table(bundle.path("reference.parquet"))
    np.testing.assert_allclose(reference["out_score"].to_numpy(), expected)


@pytest.mark.parametrize(("kept", "graph_input"), [("numbers", "number"), ("categories", "category")])
def test_customers_of_one_kind(kept: str, graph_input: str, tmp_path: Path, trained_customers: TrainedModel):
    """A table without categories, or without numbers, makes a graph without that input."""
    random = np.random.default_rng(0)
    column = random.normal(size=200) if kept == "numbers" else random.choice(["a", "b", "c"], 200)
    table = pd.DataFrame({"x": column, "churn": random.choice(["Yes", "No"], 200)})
    table.to_csv(tmp_path / "x.csv", index=False)
    dataset = prepare_customers(CustomersSource(path=str(tmp_path / "x.csv")), tmp_path / "data")
    trained = fresh(dataset, trained_customers, tmp_path / "trained")
    bundle = export(trained, dataset, name="one", version=1, run_id="r", models=tmp_path / "models")
    assert [i.name for i in session(bundle, "model.onnx").get_inputs()] == [graph_input]


def test_a_version_that_learned_from_all_rows_has_seen_the_test_split(
    films: Bundle, churn: Bundle, evaluated: Bundle, ratings: Dataset, customers: Dataset
):
    assert share_seen(evaluated, ratings) < 0.05  # an item that somebody rated twice, on both sides of the cut
    assert share_seen(films, ratings) == 1
    assert share_seen(churn, customers) == 0


def test_another_task_cannot_be_evaluated(films: Bundle, customers: Dataset):
    with pytest.raises(DataError, match="does rating, the data is churn"):
        evaluate_bundle(films, customers)


def test_another_kind_of_id_cannot_be_evaluated(films: Bundle, small_ratings: Dataset):
    with pytest.raises(DataError, match="wants input 'user_id' as INT64; the data has BYTES"):
        evaluate_bundle(films, small_ratings)


EXPORT = """
import os, signal, sys
from pathlib import Path
import exporters.export as module
from training.data.dataset import read_dataset
from training.job import read_trained
module.write_torchscript = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
module.export(read_trained(Path(sys.argv[1])), read_dataset(Path(sys.argv[2])), name="films", version=1, run_id="r", models=Path(sys.argv[3]))
"""


def test_a_killed_export_leaves_no_bundle(trained_ratings: TrainedModel, ratings: Dataset, tmp_path: Path):
    arguments = [str(trained_ratings.folder), str(ratings.folder), str(tmp_path)]
    done = subprocess.run([sys.executable, "-c", EXPORT, *arguments], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert len(list(tmp_path.glob("films/.tmp-*/model.onnx"))) == 1
    assert list_versions(tmp_path, "films") == []
    bundle = export(trained_ratings, ratings, name="films", version=1, run_id="r", models=tmp_path)
    assert bundle.version == 1
