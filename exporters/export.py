"""From a trained model to a bundle that can be served: graphs proved against the model, vocabularies, golden requests."""

import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from driftwheel.bundle import (
    GOLDEN,
    ITEMS,
    ONNX_GRAPH,
    REFERENCE,
    SEEN,
    TORCHSCRIPT_GRAPH,
    Bundle,
    bundle_folder,
    read_bundle,
    seal,
)
from driftwheel.contracts import Manifest, ParityCase, TrainingRecord
from driftwheel.errors import BundleError, ExportError, NotFoundError
from driftwheel.files import published_folder
from driftwheel.predictions import INPUT_PREFIX, OUTPUT_PREFIX
from driftwheel.preprocessing import encode
from exporters.golden import edge_batches, golden_arrays
from exporters.graphs import exported_graph
from exporters.model_graph import EXAMPLE, graph_writer
from exporters.parity import prove_finished, prove_graphs, prove_recommend
from exporters.recommend import write_factors
from exporters.torchscript import write_torchscript
from serving.recommendation.recommender import read_recommender
from training.config import config_from
from training.data.dataset import Dataset, Split, encoded_split, labels, read_split, reference_split
from training.inference import predict
from training.job import TrainedModel
from training.logged_model import WriteGraph
from training.models.fold_in import read_fold_in
from training.models.graph import GraphModel
from training.models.matrix_factorization import MatrixFactorization
from training.models.store import Model, load_any

_ASKED_USERS = 33
"""How many users top-K is proved for."""


def export(
    trained: TrainedModel,
    dataset: Dataset,
    *,
    name: str,
    version: int,
    run_id: str,
    models: Path,
    created_at: str | None = None,
    write_graph: WriteGraph | None = None,
) -> Bundle:
    """Write a version's bundle, or return the one that is there.

    A bundle that is there but damaged is written anew.

    Args:
        dataset: What the weights were trained on; of a refit, the full dataset.
        created_at: ISO 8601; now unless given.
        write_graph: What ``graph_writer`` made of the same arguments, where the graph has been written already.

    Raises:
        ExportError: A graph differs from the model, or the version's bundle was made from another run.
    """
    folder = bundle_folder(models, name, version)
    if (existing := _existing(models, name, version)) is not None:
        if existing.manifest.training.run_id == run_id:
            return existing
        raise ExportError(
            f"{folder} was made from run {existing.manifest.training.run_id}, not from {run_id}",
            hint="a bundle is immutable: register the run as a new version",
        )
    model = load_any(trained.folder)
    with published_folder(folder) as target:
        (write_graph or graph_writer(trained, dataset))(target / ONNX_GRAPH)
        if isinstance(model, GraphModel):
            parity = _write_finished(target, model, dataset)
        else:
            parity = _write_graphs(target, model, dataset, trained)
        _write_tables(target, model, dataset)
        manifest = Manifest(
            name=name,
            version=version,
            task=dataset.task,
            created_at=created_at or datetime.now(UTC).isoformat(timespec="seconds"),
            signature=dataset.signature,
            vocabularies=dataset.vocabularies,
            metrics=trained.metrics,
            training=_record(trained, dataset, run_id),
            parity=parity,
        )
        seal(target, manifest)
        if folder.exists():  # a damaged one: what comes next would leave it alone
            shutil.rmtree(folder)
    return read_bundle(models, name, version)


def _existing(models: Path, name: str, version: int) -> Bundle | None:
    try:
        return read_bundle(models, name, version)
    except (BundleError, NotFoundError):
        return None


def _record(trained: TrainedModel, dataset: Dataset, run_id: str) -> TrainingRecord:
    return TrainingRecord(
        run_id=run_id,
        data_fingerprint=dataset.fingerprint,
        data_until=dataset.data_until,
        rows=dataset.rows["train"],
        code_revision=trained.code_revision,
    )


def _write_graphs(target: Path, model: Model, dataset: Dataset, trained: TrainedModel) -> tuple[ParityCase, ...]:
    """Write TorchScript and the golden requests, prove both graphs, and return what the proof found."""
    signature, vocabularies = dataset.signature, dataset.read_vocabularies()
    batches = edge_batches(dataset)
    feeds = {case: encode(signature, vocabularies, tensors) for case, tensors in batches.items()}
    graph, inputs = exported_graph(model, signature)
    output = signature.outputs[0].name
    example = tuple(torch.from_numpy(feeds[EXAMPLE][name]) for name in inputs)
    write_torchscript(target / TORCHSCRIPT_GRAPH, graph, example)
    proof = prove_graphs(
        graph,
        onnx_path=target / ONNX_GRAPH,
        torchscript_path=target / TORCHSCRIPT_GRAPH,
        inputs=inputs,
        output=output,
        feeds=feeds,
    )
    golden: dict[str, Any] = golden_arrays(signature, batches, proof.answers)
    np.savez_compressed(target / GOLDEN, **golden)
    if not isinstance(model, MatrixFactorization):
        return proof.cases
    return proof.cases + _write_recommend(target, model, dataset, trained)


def _write_finished(target: Path, model: GraphModel, dataset: Dataset) -> tuple[ParityCase, ...]:
    """Write the golden requests of a graph that training left finished; prove that it still answers as the model did that it
    was made of. There is no TorchScript of it.
    """
    proof = prove_finished(model, dataset.signature.outputs[0].name)
    signature, vocabularies = dataset.signature, dataset.read_vocabularies()
    batches = edge_batches(dataset)
    answers = [model.answers(encode(signature, vocabularies, tensors)) for tensors in batches.values()]
    golden: dict[str, Any] = golden_arrays(signature, batches, answers)
    np.savez_compressed(target / GOLDEN, **golden)
    return proof


def _write_recommend(
    target: Path, model: MatrixFactorization, dataset: Dataset, trained: TrainedModel
) -> tuple[ParityCase, ...]:
    config = config_from(dataset.task, trained.config)
    offsets, items = seen_items(_all_known_pairs(dataset), model.shape.users)
    np.savez_compressed(target / SEEN, offsets=offsets, items=items)
    shutil.copyfile(dataset.path(ITEMS), target / ITEMS)
    write_factors(target, model, config, read_fold_in(trained.folder))
    users = np.unique(np.linspace(1, model.shape.users - 1, _ASKED_USERS).astype(np.int64))
    recommender = read_recommender(target, dataset.read_vocabularies(), threads=1, label="the exported model")
    return prove_recommend(model, recommender, users)


def _all_known_pairs(dataset: Dataset) -> dict[str, NDArray[np.int64]]:
    """Every rating of a known item by a known user, those not trained on included: what was rated is not recommended."""
    splits: tuple[Split, ...] = ("train", "reference", "valid", "test")
    feeds = [encoded_split(dataset, split).feed for split in splits if split in dataset.rows]
    pairs = {name: np.concatenate([feed[name] for feed in feeds]) for name in ("user_index", "item_index")}
    known = (pairs["user_index"] > 0) & (pairs["item_index"] > 0)
    return {name: column[known] for name, column in pairs.items()}


def seen_items(feed: dict[str, NDArray[np.int64]], users: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """What each user rated: user ``u`` rated ``items[offsets[u] : offsets[u + 1]]``, ``offsets`` being ``[users + 1]``."""
    order = np.lexsort((feed["item_index"], feed["user_index"]))
    offsets = np.searchsorted(feed["user_index"][order], np.arange(users + 1))
    return offsets.astype(np.int64), feed["item_index"][order].astype(np.int64)


def _write_tables(target: Path, model: Model | GraphModel, dataset: Dataset) -> None:
    """Copy the vocabularies and write the reference: rows that were not trained on, with this model's answers."""
    for file in dataset.vocabularies.values():
        (target / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(dataset.path(file), target / file)
    split = reference_split(dataset)
    reference = read_split(dataset, split)
    predicted = predict(model, encoded_split(dataset, split).feed)
    columns = {INPUT_PREFIX + spec.name: reference[spec.name] for spec in dataset.signature.inputs}
    columns[OUTPUT_PREFIX + dataset.signature.outputs[0].name] = pa.array(predicted)
    columns["label"] = pa.array(labels(dataset.signature, reference))
    # So that windows can be compared with rows of their own hours.
    if dataset.data_until is not None and "at" in reference.column_names:
        columns["at"] = reference["at"].cast(pa.timestamp("s", tz="UTC")).cast(pa.timestamp("us", tz="UTC"))
    pq.write_table(pa.table(columns), target / REFERENCE)
