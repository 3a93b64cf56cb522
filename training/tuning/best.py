"""The best parameters that were found for a model: how tuning feeds the next training."""

from dataclasses import dataclass
from pathlib import Path

import msgspec

from driftwheel.contracts import Task
from driftwheel.errors import ConfigurationError
from driftwheel.files import write_atomically
from driftwheel.names import check_name
from training.config import TrainConfig
from training.tuning.spaces import Params, configured


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuned:
    """The content of ``<home>/tuning/best/<model>/<estimator>.json``."""

    model: str
    task: Task
    estimator: str
    study: str
    fingerprint: str
    """Of the data that was tuned on."""
    metric: str
    value: float
    trial: int
    """The trial's number in the study."""
    trials: int
    """How many were done."""
    params: Params

    @property
    def config(self) -> TrainConfig:
        """The whole configuration: the defaults, and these parameters laid over them."""
        return self.config_over(None)

    def config_over(self, base: TrainConfig | None) -> TrainConfig:
        """These parameters laid over another configuration of the estimator; over the defaults where there is none."""
        return configured(self.task, self.params, self.estimator, base=base)

    @property
    def tags(self) -> dict[str, str]:
        """What a training run that uses them says about them."""
        return {
            "tuned": "true",
            "tuned_study": self.study,
            "tuned_trial": str(self.trial),
            "tuned_metric": f"{self.metric} {self.value:.6g}",
            "tuned_fingerprint": self.fingerprint,
        }


def tuned_path(folder: Path, model: str, estimator: str) -> Path:
    """Where the best parameters of a model's estimator lie.

    Raises:
        ConfigurationError: It is no name for a model.
    """
    return folder / "best" / check_name(model) / f"{estimator}.json"


def write_tuned(folder: Path, tuned: Tuned) -> None:
    """Keep them; those of an earlier study of the same estimator go."""
    path = tuned_path(folder, tuned.model, tuned.estimator)
    write_atomically(path, msgspec.json.format(msgspec.json.encode(tuned), indent=2))


def read_tuned(folder: Path, model: str, estimator: str) -> Tuned | None:
    """The best parameters of a model's estimator; None where it was never tuned.

    Raises:
        ConfigurationError: The file is damaged, or its values fit no knob.
    """
    path = tuned_path(folder, model, estimator)
    try:
        tuned = msgspec.json.decode(path.read_bytes(), type=Tuned)
        _ = tuned.config
    except FileNotFoundError:
        return None
    except msgspec.MsgspecError as error:
        raise ConfigurationError(
            f"the tuned parameters in {path} cannot be used: {error}",
            hint=f"driftwheel tune {model} --estimator {estimator} again, delete the file, or train with --no-tuned",
        ) from None
    return tuned
