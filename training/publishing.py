"""A finished job's model, as it appears in the job's folder."""

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from driftwheel.files import published_folder
from training.calibration import platt
from training.config import ChurnConfig, TrainConfig
from training.data.dataset import Dataset, encoded_split
from training.final_metrics import final_metrics
from training.inference import full_feed
from training.job import MODEL, RESULT, EpochEvent, Job, Result, TrainedModel, write_json
from training.models.churn_network import ChurnNetwork
from training.models.store import Model, load_model, save_model


def publish(
    job: Job,
    dataset: Dataset,
    config: TrainConfig,
    like: Model,
    weights: Mapping[str, Tensor],
    *,
    history: list[EpochEvent],
    evaluated: TrainedModel | None,
    ranks: int,
    device: torch.device,
    write_more: Callable[[Path], None] = lambda _: None,
) -> None:
    """Make the finished model appear, with its metrics: its own on the test split, or those of the evaluation.

    Args:
        like: A model of the same shape; its weights are not looked at.
        weights: All of the objective's, whole, on the CPU.
        history: The job's own epochs.
        evaluated: In a refit, the evaluation that it follows.
        write_more: Puts what else belongs to the model into its folder.
    """
    model = type(like)(like.shape)  # pyright: ignore[reportArgumentType] (each has its own shape)
    model.load_state_dict({name.removeprefix("model."): value for name, value in weights.items()})
    model.eval()
    if isinstance(model, ChurnNetwork):
        _calibrate(model, job, dataset, config)
    result = Result(
        key=job.key,
        task=job.task,
        fingerprint=dataset.fingerprint,
        config=job.config,
        seed=job.seed,
        ranks=ranks,
        code_revision=job.code_revision,
        history=evaluated.history if evaluated else tuple(history),
        metrics=_metrics(model, dataset, config, evaluated),
        device=device.type,
        refit_rows=dataset.rows["train"] if evaluated else None,
        refit_epochs=len(history) if evaluated else None,
    )
    with published_folder(Path(job.folder) / MODEL) as target:
        save_model(target, model)
        write_more(target)
        write_json(target / RESULT, result)


def _metrics(model: Model, dataset: Dataset, config: TrainConfig, evaluated: TrainedModel | None) -> dict[str, float]:
    if "test" in dataset.rows:
        return final_metrics(model, encoded_split(dataset, "train"), encoded_split(dataset, "test"), config)
    return evaluated.metrics if evaluated else {}  # a refit on all rows, or a trial, which may not see it


def _calibrate(model: ChurnNetwork, job: Job, dataset: Dataset, config: TrainConfig) -> None:
    """By the valid split, which the weights did not learn from; a refit keeps what its evaluation found."""
    if job.evaluation is not None:
        evaluated = load_model(Path(job.evaluation))
        assert isinstance(evaluated, ChurnNetwork)  # noqa: S101 (the same configuration made it)
        scale, bias = evaluated.calibration_scale, evaluated.calibration_bias
    else:
        assert isinstance(config, ChurnConfig)  # noqa: S101 (whose objective has such a model)
        valid = encoded_split(dataset, "valid")
        with torch.no_grad():
            logits = model.logits(*full_feed(model, valid.feed)).numpy()
        scale, bias = map(torch.tensor, platt(logits, valid.label, spread=config.calibration_spread))
    model.calibration_scale.copy_(scale)
    model.calibration_bias.copy_(bias)
