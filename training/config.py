"""What a training run is told, besides its data: the knobs of each task and their defaults."""

import dataclasses
import hashlib
from dataclasses import dataclass
from typing import Any, Literal

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
class CustomerConfig(TrainConfig):
    """What every model of customers has: the costs that its threshold follows from, see ``metrics.Costs``."""

    missed_cost: float = 5.0
    """What a customer who leaves without an offer costs, in any currency."""
    needless_cost: float = 1.0
    """What an offer to a customer who stays costs, in the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChurnConfig(CustomerConfig):
    """The churn network."""

    epochs: int = 100
    batch_rows: int = 512
    learning_rate: float = 0.001
    patience: int = 10
    embedding: int = 4
    hidden: tuple[int, ...] = (16,)
    dropout: float = 0.3
    weight_decay: float = 1e-3
    bins: int = 16
    """Pieces of each number's encoding, of equal mass; 0 leaves the number alone."""
    heads: int = 8
    """Networks side by side whose log odds are averaged."""
    calibration_spread: float = 0.1
    """How far calibration on the valid split may go from scale 1 and bias 0, as a prior's deviation; 0: no calibration."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ForestConfig(CustomerConfig):
    """A random forest. Of what every task has, only the costs and the seed count."""

    estimator: Literal["forest"] = "forest"
    epochs: int = 1
    trees: int = 500
    min_leaf_rows: int = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class BoostingConfig(CustomerConfig):
    """Gradient-boosted trees; an epoch is one more tree, and those after the best validation log loss are left out."""

    estimator: Literal["boosting"] = "boosting"
    epochs: int = 300
    learning_rate: float = 0.05
    leaves: int = 8
    """Of one tree, at most."""
    min_leaf_rows: int = 20
    l2: float = 1.0


Estimator = Literal["network", "forest", "boosting"]
"""What learns from customers: our network, or one of scikit-learn's to hold it against."""


def estimator_config(estimator: Estimator) -> TrainConfig:
    """The defaults of an estimator of customers."""
    return {"network": ChurnConfig, "forest": ForestConfig, "boosting": BoostingConfig}[estimator]()


def default_config(task: Task) -> TrainConfig:
    """The defaults for a task, tuned on the validation splits of the packaged data."""
    return RatingConfig() if task == "rating" else ChurnConfig()


def config_from(task: Task, fields: dict[str, Any]) -> TrainConfig:
    """Rebuild a configuration from ``config_fields``.

    Raises:
        msgspec.ValidationError: A field has the wrong type.
    """
    if task == "rating":
        return msgspec.convert(fields, RatingConfig)
    kinds = {"forest": ForestConfig, "boosting": BoostingConfig}
    return msgspec.convert(fields, kinds.get(fields.get("estimator", ""), ChurnConfig))


def config_fields(config: TrainConfig) -> dict[str, Any]:
    """The knobs as plain JSON values."""
    return msgspec.to_builtins(dataclasses.asdict(config))


def digest(*parts: object) -> str:
    """A short name for a combination of JSON values."""
    return hashlib.sha256(msgspec.json.encode(parts, order="deterministic")).hexdigest()[:12]
