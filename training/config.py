"""What a training run is told, besides its data: the knobs of each task and their defaults."""

import dataclasses
import hashlib
from dataclasses import dataclass
from typing import Any

import msgspec

from driftwheel.contracts import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """The knobs that every task has."""

    epochs: int = 40
    """The most passes over the training split."""
    batch_rows: int = 2048
    """Rows of one step over all ranks together, so that the number of ranks changes the speed and not the result."""
    learning_rate: float = 0.01
    patience: int = 5
    """Epochs without a better validation metric after which training stops."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RatingConfig(TrainConfig):
    """Matrix factorization."""

    factors: int = 16
    vector_damping: float = 20.0
    """How many average ratings a vector's length is drawn to zero by."""
    bias_damping: float = 4.0
    """How many average ratings a bias is drawn to zero by."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChurnConfig(TrainConfig):
    """The churn network."""

    batch_rows: int = 512
    learning_rate: float = 0.003
    embedding: int = 4
    hidden: tuple[int, ...] = (32,)
    dropout: float = 0.3
    weight_decay: float = 1e-3


def default_config(task: Task) -> TrainConfig:
    """The defaults for a task, tuned on the validation splits of the packaged data."""
    return RatingConfig() if task == "rating" else ChurnConfig()


def config_from(task: Task, fields: dict[str, Any]) -> TrainConfig:
    """Rebuild a configuration from ``config_fields``.

    Raises:
        msgspec.ValidationError: A field has the wrong type.
    """
    return msgspec.convert(fields, RatingConfig if task == "rating" else ChurnConfig)


def config_fields(config: TrainConfig) -> dict[str, Any]:
    """The knobs as plain JSON values."""
    return msgspec.to_builtins(dataclasses.asdict(config))


def digest(*parts: object) -> str:
    """A short name for a combination of JSON values."""
    return hashlib.sha256(msgspec.json.encode(parts, order="deterministic")).hexdigest()[:12]
