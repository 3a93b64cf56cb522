"""What a training run is told: an estimator and its parameters, from the command line, from tuning, or from the champion."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from driftwheel.contracts import Task
from driftwheel.errors import NotFoundError
from driftwheel.rollout import read_rollout
from driftwheel.settings import Settings
from driftwheel.wheel.progress import Reporter

if TYPE_CHECKING:
    from training.config import TrainConfig
    from training.data.dataset import Dataset
    from training.tuning.best import Tuned


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """A configuration, and where it comes from."""

    config: "TrainConfig"
    tuned: "Tuned | None" = None
    """What tuning found for it, if it did."""


def check_estimator(task: Task, estimator: str | None, parameters: Mapping[str, object] | None = None) -> None:
    """Refuse an estimator (None: the task's default) or parameters of it before work is spent.

    Raises:
        ConfigurationError: The task is not learned by it, or it has no such parameters.
    """
    from training.config import default_estimator, estimator_config, with_parameters

    config = estimator_config(task, estimator or default_estimator(task))
    if parameters:
        with_parameters(config, dict(parameters))


def chosen_parameters(
    settings: Settings,
    name: str,
    dataset: "Dataset",
    reporter: Reporter,
    *,
    estimator: str | None = None,
    base: "TrainConfig | None" = None,
) -> Parameters:
    """An estimator with the best parameters that ``driftwheel tune`` found for it, unless the settings say to go without;
    the others are those of ``base``. What the settings give goes before both.

    Args:
        estimator: What learns; that of ``base`` unless given, or else the task's default.
        base: Parameters to begin with, if they are of that estimator; its defaults unless given.

    Raises:
        ConfigurationError: The task is not learned by that estimator, what tuning found cannot be used any more, or what the
            settings give is no parameter of it.
    """
    from training.config import config_fields, default_estimator, estimator_config, estimator_of, with_parameters

    task = dataset.task
    of_base = estimator_of(task, config_fields(base)) if base else default_estimator(task)
    learner = estimator or of_base
    config = base if base and learner == of_base else estimator_config(task, learner)
    tuned = best_parameters(settings, name, dataset, reporter, estimator=learner)
    best = tuned.config_over(config) if tuned else config
    return Parameters(config=with_parameters(best, settings.training.parameters), tuned=tuned)


def best_parameters(
    settings: Settings, name: str, dataset: "Dataset", reporter: Reporter, *, estimator: str
) -> "Tuned | None":
    """What tuning found for a model's estimator, unless the settings say to train without.

    Raises:
        ConfigurationError: What it found cannot be used any more.
    """
    from training.tuning.best import read_tuned

    if not settings.tuning.use_best:
        return None
    tuned = read_tuned(settings.tuning_folder, name, estimator)
    if tuned is None or tuned.task != dataset.task:
        return None
    where = "on this data" if tuned.fingerprint == dataset.fingerprint else f"on data {tuned.fingerprint[:12]}"
    reporter.note(
        f"tuned parameters of trial {tuned.trial} ({tuned.metric} {tuned.value:.4f} {where}): "
        + ", ".join(f"{knob} {_short(value)}" for knob, value in tuned.params.items())
    )
    return tuned


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def champion_config(settings: Settings, name: str, reporter: Reporter) -> "TrainConfig | None":
    """The estimator and parameters that the version in service was trained with, as they are on record; None where
    nothing is in service yet, or what is was brought from elsewhere.

    Raises:
        TrainingError: The record is damaged.
    """
    from training.config import config_from
    from training.registry import Registry

    try:
        version = read_rollout(settings.rollouts, name).stable
        with TemporaryDirectory() as folder:
            trained = Registry(settings).trained_model(name, version, Path(folder) / "model")
    except NotFoundError as error:
        reporter.note(f"the champion's parameters are not on record ({error.message}): the defaults are taken")
        return None
    return config_from(trained.task, trained.config)
