"""The champion through ``mlflow.pyfunc``, in a process that knows nothing of ours."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from driftwheel.bundle import Bundle
from driftwheel.contracts import Signature
from driftwheel.settings import Settings
from exporters.export import export
from tests.training.samples import run_both
from tests.training.tracked import track_all, track_alone
from training.data.dataset import Dataset
from training.evaluation import bundle_answers
from training.job import TrainedModel
from training.mlflow_store import tracking_uri
from training.registry import CHAMPION, Registry

# It ends without an interpreter's usual end: there, now and then, a thread of some native library (MLflow brings dozens) calls
# ``terminate``, which is not what is tested here.
LOAD = """
import json, os, sys
import mlflow, pandas as pd
mlflow.set_tracking_uri(sys.argv[1])
said = {}
for name in sys.argv[3:]:
    model = mlflow.pyfunc.load_model(f"models:/{name}@champion")
    answers = model.predict(pd.read_parquet(f"{sys.argv[2]}/{name}.rows.parquet"))
    answers.to_parquet(f"{sys.argv[2]}/{name}.answers.parquet")
    columns = [(column.name, column.type.name) for column in model.metadata.signature.inputs]
    said[name] = {"columns": columns, "index": answers.index.tolist()[:3]}
ours = sorted(name for name in sys.modules if name.partition(".")[0] in ("driftwheel", "training", "torch"))
print(json.dumps({"ours": ours, "said": said}), flush=True)
os._exit(0)
"""
KINDS = ("rating", "small rating", "churn")


@pytest.fixture(scope="module")
def champions(
    request: pytest.FixtureRequest, shared_home: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Bundle]:
    models = tmp_path_factory.mktemp("models")
    return {kind: in_service(kind, request, shared_home, models) for kind in KINDS}


def in_service(kind: str, request: pytest.FixtureRequest, shared_home: Path, models: Path) -> Bundle:
    """A version in service: MovieLens' whole-number ids, made text ids, or customers."""
    settings = Settings(home=shared_home)
    registry = Registry(settings)
    if kind == "churn":
        full: Dataset = request.getfixturevalue("customers")
        shipped: TrainedModel = request.getfixturevalue("trained_customers")
        run_id, name = track_alone(shipped, full, settings), "load-churn"
    else:
        dataset: Dataset = request.getfixturevalue("ratings" if kind == "rating" else "small_ratings")
        from training.data.refit import refit_dataset

        full = refit_dataset(dataset)
        made = run_both(dataset, full, shared_home / "jobs")
        shipped, name = made.shipped, "load-mf" if kind == "rating" else "load-small"
        run_id = track_all(made, dataset, settings, full=full)
    version = registry.register(run_id, name, full, "")
    registry.set_alias(name, CHAMPION, version)
    return export(shipped, full, name=name, version=version, run_id=run_id, models=models)


def edge_rows(bundle: Bundle) -> pd.DataFrame:
    """The reference's rows, then such with what nobody has seen and, in each column that may, nothing at all."""
    signature = bundle.manifest.signature
    table = pd.read_parquet(bundle.path("reference.parquet"))[[f"in_{spec.name}" for spec in signature.inputs]]
    table = table.set_axis([spec.name for spec in signature.inputs], axis=1).head(300)
    strange = table.tail(2 * len(signature.inputs)).copy()
    for row, spec in enumerate(signature.inputs):
        unknown = {"INT64": 2**62, "BYTES": "\N{SNOWMAN}", "FP32": np.float32(np.nan)}[spec.datatype]
        strange.iloc[row, row] = unknown
        if spec.role == "category":
            strange.iloc[len(signature.inputs) + row, row] = None
    rows = pd.concat([table, strange])
    rows.index = pd.RangeIndex(7, 7 + len(rows))
    return rows


def tensors(signature: Signature, rows: pd.DataFrame) -> dict[str, np.ndarray]:
    kinds = {"INT64": np.int64, "FP32": np.float32, "BYTES": object}
    return {spec.name: rows[spec.name].to_numpy().astype(kinds[spec.datatype]) for spec in signature.inputs}


@pytest.fixture(scope="module")
def loaded(
    champions: dict[str, Bundle], shared_home: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], Path]:
    """What one such process says of all of them, and the folder in which its answers lie."""
    folder = tmp_path_factory.mktemp("loaded")
    for bundle in champions.values():
        edge_rows(bundle).to_parquet(folder / f"{bundle.name}.rows.parquet")
    uri = tracking_uri(Settings(home=shared_home))
    names = [bundle.name for bundle in champions.values()]
    command = [sys.executable, "-W", "ignore", "-c", LOAD, uri, str(folder), *names]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), folder


@pytest.mark.parametrize("kind", KINDS)
def test_it_answers_public_inputs_as_the_bundle_does(
    kind: str, champions: dict[str, Bundle], loaded: tuple[dict[str, Any], Path]
) -> None:
    champion, (found, folder) = champions[kind], loaded
    signature, rows = champion.manifest.signature, edge_rows(champion)
    assert found["ours"] == []
    said = found["said"][champion.name]
    assert said["index"] == [7, 8, 9]
    types = {"INT64": "long", "FP32": "double", "BYTES": "string"}
    assert said["columns"] == [[spec.name, types[spec.datatype]] for spec in signature.inputs]
    answers = pd.read_parquet(folder / f"{champion.name}.answers.parquet")
    expected = bundle_answers(champion, tensors(signature, rows))
    assert len(np.unique(expected)) > 100
    np.testing.assert_allclose(answers[signature.outputs[0].name], expected, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_in_it_is_pickled(kind: str, champions: dict[str, Bundle], shared_home: Path) -> None:
    from training.mlflow_store import logged_model_id, open_client

    champion = champions[kind]

    client = open_client(Settings(home=shared_home))
    model_id = logged_model_id(client, champion.manifest.training.run_id)
    folder = Path(client.get_logged_model(model_id).artifact_location.removeprefix("file://"))
    names = {file.name for file in folder.rglob("*") if file.is_file()}
    assert {"pyfunc.py", "model.onnx", "encoding.json", "MLmodel"} <= names
    assert not [name for name in names if name.endswith((".pkl", ".pickle", ".pt", ".pth"))]
