"""Put a training run on record in MLflow."""

import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from driftwheel.settings import Settings
from training.data.dataset import Dataset, encoded_split
from training.inference import full_feed, predict
from training.job import TrainedModel
from training.mlflow_store import KEY_TAG, WEIGHTS_FOLDER, experiment_id, open_client, quiet, use_globally
from training.models.graph import GraphModel
from training.models.store import Model, forward_inputs, load_any
from training.plots import training_plots

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from mlflow.models import ModelSignature

MODEL_NAME = "model"

_BATCH = 1000
"""The most metrics that one call may bring."""


def track(
    evaluated: TrainedModel,
    dataset: Dataset,
    settings: Settings,
    *,
    shipped: TrainedModel,
    full: Dataset,
    tags: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """Record a run with its parameters, metrics, data, plots and model, and return its id.

    Metrics and plots are of the evaluation on ``dataset``; the model and its weights are those shipped, of ``full``.
    The same job recorded before is found again; a run that was cut off is marked as killed, and recorded anew.

    Args:
        tags: What else is to be known of it, where its parameters came from for one.
    """
    client = open_client(settings)
    with quiet():
        experiment = experiment_id(client, settings)
        for run in _runs_of(client, experiment, shipped.key):
            if run.info.status == "FINISHED":
                return run.info.run_id
            if run.info.status == "RUNNING":
                client.set_terminated(run.info.run_id, "KILLED")
        run_id = client.create_run(experiment, run_name=shipped.key, tags=_tags(shipped, full) | dict(tags)).info.run_id
        try:
            _log_numbers(client, run_id, shipped, dataset, full)
            _log_plots(client, run_id, evaluated, dataset)
            for file in sorted(shipped.folder.iterdir()):
                client.log_artifact(run_id, str(file), WEIGHTS_FOLDER)
            _log_model(run_id, load_any(shipped.folder), full, settings)
        except BaseException:
            client.set_terminated(run_id, "FAILED")
            raise
        client.set_terminated(run_id, "FINISHED")
    return run_id


def _runs_of(client: "MlflowClient", experiment: str, key: str) -> "list[Run]":
    return list(client.search_runs([experiment], filter_string=f"tags.`{KEY_TAG}` = '{key}'"))


def _tags(trained: TrainedModel, dataset: Dataset) -> dict[str, str]:
    tags = {KEY_TAG: trained.key, "task": trained.task, "code_revision": trained.code_revision}
    return tags | ({"data_until": dataset.data_until} if dataset.data_until else {})


def _log_numbers(client: "MlflowClient", run_id: str, trained: TrainedModel, dataset: Dataset, full: Dataset) -> None:
    from mlflow.entities import Metric, Param

    now_ms = int(time.time() * 1000)
    params = {
        **trained.config,
        "seed": trained.seed,
        "ranks": trained.ranks,
        "device": trained.device,
        "data_fingerprint": full.fingerprint,
        "evaluation_fingerprint": dataset.fingerprint,
        "refit_rows": trained.refit_rows,
        "refit_epochs": trained.refit_epochs,
        "data_source": dataset.source,
        **{f"rows_{split}": rows for split, rows in dataset.rows.items()},
        **{f"dropped_{reason.replace(' ', '_')}": rows for reason, rows in dataset.dropped.items()},
    }
    metrics = [
        Metric(name, value, now_ms, event.epoch)
        for event in trained.history
        for name, value in (
            ("train_loss", event.train_loss),
            ("valid_metric", event.valid_metric),
            ("epoch_seconds", event.seconds),
        )
        if value is not None
    ]
    metrics += [Metric(f"test_{name}", value, now_ms, 0) for name, value in trained.metrics.items()]
    client.log_batch(run_id, params=[Param(name, str(value)) for name, value in params.items()])
    for start in range(0, len(metrics), _BATCH):
        client.log_batch(run_id, metrics=metrics[start : start + _BATCH])
    client.log_inputs(run_id, [dataset_input(dataset, "evaluation"), dataset_input(full, "training")])


def dataset_input(dataset: Dataset, context: str) -> Any:
    """A dataset as an input of a run, with what it was used for."""
    import msgspec
    from mlflow.entities import Dataset as MlflowDataset
    from mlflow.entities import DatasetInput, InputTag

    entity = MlflowDataset(
        name=f"{dataset.task} {dataset.fingerprint[:16]}",
        digest=dataset.fingerprint[:32],
        source_type="local" if "://" not in dataset.source else "remote",
        source=msgspec.json.encode({"uri": dataset.source}).decode(),
        profile=msgspec.json.encode({"rows": dataset.rows, "dropped": dataset.dropped}).decode(),
    )
    return DatasetInput(entity, [InputTag("mlflow.data.context", context)])


def _log_plots(client: "MlflowClient", run_id: str, trained: TrainedModel, dataset: Dataset) -> None:
    test = encoded_split(dataset, "test")
    predicted = predict(load_any(trained.folder), test.feed)
    with TemporaryDirectory() as folder:
        for name, figure in training_plots(trained, predicted, test.label):
            figure.savefig(Path(folder) / name, dpi=100)
        client.log_artifacts(run_id, folder, "plots")


def _log_model(run_id: str, model: Model | GraphModel, dataset: Dataset, settings: Settings) -> None:
    """Log the model as a traced graph (pt2), or as the ONNX graph that it is, with its signature. The explicit
    requirements spare MLflow a slow guess.
    """
    import mlflow

    use_globally(settings)
    with warnings.catch_warnings(), mlflow.start_run(run_id=run_id, log_system_metrics=False):
        warnings.filterwarnings("ignore", module="torch")  # torch.export's about its own insides
        if isinstance(model, GraphModel):
            _log_graph(model, dataset)
        else:
            _log_torch(model, dataset)


def _log_torch(model: Model, dataset: Dataset) -> None:
    import mlflow.pytorch
    import torch

    example = full_feed(model, {name: column[:2] for name, column in encoded_split(dataset, "train").feed.items()})
    mlflow.pytorch.log_model(
        model,
        name=MODEL_NAME,
        signature=_signature(forward_inputs(model), dataset),
        input_example=tuple(tensor.numpy() for tensor in example),
        pip_requirements=[f"torch=={torch.__version__.partition('+')[0]}"],
    )


def _log_graph(model: GraphModel, dataset: Dataset) -> None:
    import mlflow.onnx
    import onnx
    import onnxruntime

    mlflow.onnx.log_model(
        onnx.load_model_from_string(model.content),
        name=MODEL_NAME,
        signature=_signature(model.inputs, dataset),
        pip_requirements=[f"onnx=={onnx.__version__}", f"onnxruntime=={onnxruntime.__version__}"],
        save_as_external_data=False,
    )


def _signature(names: tuple[str, ...], dataset: Dataset) -> "ModelSignature":
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema, TensorSpec

    from driftwheel.preprocessing import graph_widths

    widths = graph_widths(dataset.signature)
    is_rating = dataset.task == "rating"
    inputs: list[ColSpec | TensorSpec] = [
        TensorSpec(
            np.dtype("float32" if name == "number" else "int64"),
            (-1,) if is_rating else (-1, widths.get(name, 0)),
            name,
        )
        for name in names
    ]
    outputs: list[ColSpec | TensorSpec] = [
        TensorSpec(np.dtype("float32"), (-1,), spec.name) for spec in dataset.signature.outputs
    ]
    return ModelSignature(inputs=Schema(inputs), outputs=Schema(outputs))
