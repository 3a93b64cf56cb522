"""Jobs of scikit-learn's trees: ``python -m training.tree_worker JOB.json...``, started as torchrun's workers are.

One process does them, one after the other: an evaluation, then its refits. There is no checkpoint, since they take
seconds: an interrupted one begins anew.
"""

import os
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from driftwheel.errors import TrainingError
from driftwheel.files import published_folder, remove_leftovers, waiting_lock, write_atomically
from driftwheel.processes import tie
from training.config import BoostingConfig, ForestConfig, config_from
from training.data.dataset import Dataset, EncodedSplit, encoded_split, read_dataset
from training.final_metrics import final_metrics
from training.job import LOCK, MODEL, PROGRESS, RESULT, EpochEvent, Job, Result, TrainedModel, read_trained, write_json
from training.metrics import churn_metrics
from training.models.graph import Case, GraphModel, write_graph
from training.resources import cpu_seconds, peak_memory_mb
from training.trees import Encoder, Feed, boosting, encoder_of, forest, graph_of

_TOLERANCE = 1e-5
"""The most that a graph's probability may differ from scikit-learn's."""

_EVIDENCE_ROWS = (1, 7, 257)


def run(job: Job) -> TrainedModel:
    """Fit, convert, prove and measure, and publish the model.

    Raises:
        TrainingError: The graph does not answer as scikit-learn does.
    """
    folder = Path(job.folder)
    dataset = read_dataset(Path(job.dataset))
    evaluated = read_trained(Path(job.evaluation)) if job.evaluation else None
    train = encoded_split(dataset, "train")
    encoder = encoder_of(train)
    estimator, history = _fitted(job, dataset, train, encoder, evaluated)
    write_atomically(folder / PROGRESS, b"".join(msgspec.json.encode(event) + b"\n" for event in history))
    output = dataset.signature.outputs[0].name
    evidence = {
        case: feed | {"answer": _answers(estimator, encoder, feed)} for case, feed in _cases(train.feed).items()
    }
    model = GraphModel(graph_of(estimator, encoder, train.feed, output), evidence)
    _prove(model, estimator, encoder, train.feed)
    with published_folder(folder / MODEL) as target:
        write_graph(target, model)
        write_json(target / RESULT, _result(job, dataset, model, train, history, evaluated))
    return read_trained(folder / MODEL)


def _fitted(
    job: Job, dataset: Dataset, train: EncodedSplit, encoder: Encoder, evaluated: TrainedModel | None
) -> tuple[Any, list[EpochEvent]]:
    """A fitted estimator, and how it got there; in a refit, as many trees as were best in the evaluation."""
    config = config_from(job.task, job.config)
    rows = encoder.encode(train.feed)
    started, cpu_before = time.perf_counter(), cpu_seconds()

    def spent() -> tuple[float, float]:
        return time.perf_counter() - started, cpu_seconds() - cpu_before

    if isinstance(config, ForestConfig):
        estimator = forest(config, job.seed, job.threads).fit(rows, train.label)
        stages = [estimator.predict_proba(rows)], lambda valid: [estimator.predict_proba(valid)]
    elif isinstance(config, BoostingConfig):
        trees = evaluated.best_epoch if evaluated else config.epochs
        estimator = boosting(config, trees, job.seed).fit(rows, train.label)
        stages = estimator.staged_predict_proba(rows), estimator.staged_predict_proba
    else:
        raise TrainingError(f"no trees are trained by a {type(config).__name__}")
    losses = [_log_loss(p, train.label) for p in stages[0]]
    if evaluated is not None:
        return estimator, _events(losses, None, *spent())
    valid = encoded_split(dataset, "valid")
    metrics = [_log_loss(p, valid.label) for p in stages[1](encoder.encode(valid.feed))]
    history = _events(losses, metrics, *spent())
    if isinstance(config, BoostingConfig):
        estimator = boosting(config, int(np.argmin(metrics)) + 1, job.seed).fit(rows, train.label)
    return estimator, history


def _log_loss(probability: NDArray[Any], actual: NDArray[Any]) -> float:
    return churn_metrics(probability[:, 1], actual)["log_loss"]


def _events(losses: list[float], metrics: list[float] | None, seconds: float, cpu: float) -> list[EpochEvent]:
    """Time is shared out evenly over the trees."""
    best = np.minimum.accumulate(metrics) if metrics else None
    return [
        EpochEvent(
            epoch=n + 1,
            train_loss=loss,
            valid_metric=metrics[n] if metrics else None,
            best=best is None or n == 0 or bool(best[n] < best[n - 1]),
            seconds=seconds / len(losses),
            cpu_seconds=cpu / len(losses),
            peak_memory_mb=peak_memory_mb(),
        )
        for n, loss in enumerate(losses)
    ]


def _answers(estimator: Any, encoder: Encoder, feed: Feed) -> NDArray[np.float32]:
    return estimator.predict_proba(encoder.encode(feed))[:, 1].astype(np.float32)


def _cases(train: Feed) -> dict[str, Case]:
    """Rows of the training split, and such with strange values in each column in turn, and in all."""
    cases: dict[str, Case] = {
        f"{rows} rows": {name: np.resize(column, (rows, column.shape[1])) for name, column in train.items()}
        for rows in _EVIDENCE_ROWS
    }
    strange = [("category", 0, "unknown")] if "category" in train else []
    strange += [("number", v, k) for v, k in ((np.nan, "missing"), (np.inf, "infinite"))] if "number" in train else []
    for name, value, kind in strange:
        width = train[name].shape[1]
        rows = {other: np.resize(column, (width + 1, column.shape[1])) for other, column in train.items()}
        rows[name][np.arange(width), np.arange(width)] = value
        rows[name][width] = value
        cases[f"{kind} {name}"] = rows
    return cases


def _prove(model: GraphModel, estimator: Any, encoder: Encoder, train: Feed) -> None:
    difference = float(np.abs(model.answers(train) - _answers(estimator, encoder, train)).max(initial=0.0))
    if not difference <= _TOLERANCE:
        raise TrainingError(f"the graph differs from scikit-learn by {difference:g} on the training split")


def _result(
    job: Job,
    dataset: Dataset,
    model: GraphModel,
    train: EncodedSplit,
    history: list[EpochEvent],
    evaluated: TrainedModel | None,
) -> Result:
    if "test" in dataset.rows:
        metrics = final_metrics(model, train, encoded_split(dataset, "test"), config_from(job.task, job.config))
    else:
        metrics = evaluated.metrics if evaluated else {}
    return Result(
        key=job.key,
        task=job.task,
        fingerprint=dataset.fingerprint,
        config=job.config,
        seed=job.seed,
        ranks=1,
        code_revision=job.code_revision,
        history=evaluated.history if evaluated else tuple(history),
        metrics=metrics,
        refit_rows=len(train.label) if evaluated else None,
        refit_epochs=len(history) if evaluated else None,
    )


def main(job_paths: list[str]) -> None:
    """Do each job, alone."""
    tie(os.getppid())
    for path in job_paths:
        job = msgspec.json.decode(Path(path).read_bytes(), type=Job)
        with waiting_lock(Path(job.folder) / LOCK):
            remove_leftovers(Path(job.folder), older_than_s=0.0, now_s=time.time())
            run(job)


if __name__ == "__main__":
    main(sys.argv[1:])
