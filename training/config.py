"""What a training run is told, besides its data: the knobs of each task and their defaults."""

import dataclasses
import hashlib
import math
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from driftwheel.contracts import Task
from driftwheel.errors import ConfigurationError


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
    """Matrix factorization by gradient descent."""

    estimator: Literal["sgd"] = "sgd"
    factors: int = 16
    vector_damping: float = 20.0
    """How many average ratings a vector's length is drawn to zero by."""
    bias_damping: float = 4.0
    """How many average ratings a bias is drawn to zero by."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BayesConfig(TrainConfig):
    """Matrix factorization by Gibbs sampling; an epoch is one draw of everything. It has no damping to tune."""

    estimator: Literal["bayes"] = "bayes"
    epochs: int = 240
    factors: int = 8
    """Of one draw."""
    burn_in: int = 20
    """Draws that are thrown away: they still remember where they began."""
    samples: int = 64
    """The most draws that the model is the mean of."""
    kept_factors: int = 16
    """Of the model: the mean of all draws would have ``samples * factors``, and few of them matter."""
    choice_factors: int = 64
    """Directions of who rated what that users and items are expected to follow; 0: none are looked for."""
    item_features: bool = True
    """Whether items are expected to follow what the dataset knows of them, like genre and year."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AlsConfig(TrainConfig):
    """Matrix factorization by alternating least squares; an epoch solves all users, then all items."""

    estimator: Literal["als"] = "als"
    epochs: int = 20
    patience: int = 2
    factors: int = 32
    vector_damping: float = 13.0
    """As of gradient descent."""
    bias_damping: float = 2.5


@dataclass(frozen=True, slots=True, kw_only=True)
class IalsConfig(TrainConfig):
    """Factorization of what users chose to rate, for ranking; an epoch solves all users, then all items."""

    estimator: Literal["ials"] = "ials"
    epochs: int = 10
    factors: int = 64
    unobserved_weight: float = 0.3
    """What an item weighs that a user did not rate, where one rated highest weighs 1."""
    damping: float = 0.005
    """The ridge, for each rating and each ``1 / unobserved_weight`` items."""
    liked_share: float = 0.22
    """Up to this share of the rating range nothing is liked; from there, weight grows to 1."""
    half_life: float = 10.0
    """Ratings by a user after which an earlier one of theirs weighs half, when they are ranked for; 0: all weigh alike."""
    bias_damping: float = 4.0
    """How many average ratings a user's bias is drawn to zero by, which only puts scores on the scale of ratings."""


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


ESTIMATORS: dict[Task, dict[str, type[TrainConfig]]] = {
    "rating": {"bayes": BayesConfig, "sgd": RatingConfig, "als": AlsConfig, "ials": IalsConfig},
    "churn": {"network": ChurnConfig, "forest": ForestConfig, "boosting": BoostingConfig},
}
"""What learns each task, by name, with its knobs; the first is the default. Of customers, that is our network, and two of
scikit-learn's to hold it against."""


def default_estimator(task: Task) -> str:
    """What learns a task unless somebody says otherwise."""
    return next(iter(ESTIMATORS[task]))


def estimator_of(task: Task, fields: dict[str, Any]) -> str:
    """Whose knobs ``config_fields`` gave. Those without a name are the network's, and of ratings as they were before there
    was a choice.
    """
    return fields.get("estimator", "sgd" if task == "rating" else "network")


def is_ranking(config: TrainConfig) -> bool:
    """Whether an estimator is trained to rank items, not to predict ratings."""
    return isinstance(config, IalsConfig)


def validation_metric(config: TrainConfig) -> str:
    """What an estimator is measured by after each epoch; lower is better. ``ndcg_loss`` is what NDCG@10 lacks of 1."""
    if is_ranking(config):
        return "ndcg_loss"
    return "log_loss" if isinstance(config, CustomerConfig) else "rmse"


def estimator_config(task: Task, estimator: str) -> TrainConfig:
    """The defaults of an estimator.

    Raises:
        ConfigurationError: The task is not learned by it.
    """
    if estimator not in ESTIMATORS[task]:
        what = "ratings" if task == "rating" else "customers"
        known = ", ".join(ESTIMATORS[task])
        raise ConfigurationError(f"--estimator must be one that learns from {what} ({known}), got {estimator!r}")
    return ESTIMATORS[task][estimator]()


def default_config(task: Task) -> TrainConfig:
    """The defaults for a task, tuned on the validation splits of the packaged data."""
    return ESTIMATORS[task][default_estimator(task)]()


def config_from(task: Task, fields: dict[str, Any]) -> TrainConfig:
    """Rebuild a configuration from ``config_fields``.

    Raises:
        ConfigurationError: It is of an estimator that does not learn the task.
        msgspec.ValidationError: A field has the wrong type.
    """
    kind = type(estimator_config(task, estimator_of(task, fields)))
    return msgspec.convert(fields, kind)


_AT_LEAST_ONE = frozenset(
    {"epochs", "factors", "kept_factors", "samples", "batch_rows", "heads", "hidden", "trees", "leaves"}
)
_AT_MOST_ONE = frozenset({"dropout", "liked_share"})


def with_parameters(config: TrainConfig, given: dict[str, Any]) -> TrainConfig:
    """A configuration with other values for some of its parameters.

    Raises:
        ConfigurationError: A name is none of its parameters, or a value is of another type or out of range.
    """
    fields = config_fields(config)
    names = sorted(fields.keys() - {"estimator"})
    for name, value in given.items():
        if name not in names:
            raise ConfigurationError(f"--set {name}: expected a parameter ({', '.join(names)})")
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, int | float) and not isinstance(number, bool):
                _check_range(name, number)
    try:
        changed = msgspec.convert(fields | given, type(config))
    except msgspec.ValidationError as error:
        reason, _, place = str(error).partition(" - at `$.")
        raise ConfigurationError(f"--set {place.rstrip('`')}: {reason}") from None
    if isinstance(changed, BayesConfig) and changed != config and changed.burn_in >= changed.epochs:
        raise ConfigurationError(
            f"--set epochs, burn_in: expected more epochs than draws that are thrown away, got {changed.epochs} and "
            f"{changed.burn_in}"
        )
    if isinstance(changed, CustomerConfig) and not changed.missed_cost + changed.needless_cost:
        raise ConfigurationError("--set missed_cost, needless_cost: at least one of them must be above 0")
    return changed


def _check_range(name: str, value: float) -> None:
    least = 1 if name in _AT_LEAST_ONE else 0
    if not (math.isfinite(value) and value >= least):
        raise ConfigurationError(f"--set {name}: expected a number of {least} or more, got {value}")
    if name in _AT_MOST_ONE and value > 1:
        raise ConfigurationError(f"--set {name}: expected a number of 1 or less, got {value}")


def config_fields(config: TrainConfig) -> dict[str, Any]:
    """The knobs as plain JSON values."""
    return msgspec.to_builtins(dataclasses.asdict(config))


def digest(*parts: object) -> str:
    """A short name for a combination of JSON values."""
    return hashlib.sha256(msgspec.json.encode(parts, order="deterministic")).hexdigest()[:12]
