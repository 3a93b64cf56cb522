"""What is searched: for each estimator the knobs that vary, as data. The others keep what they have."""

from dataclasses import dataclass
from typing import Any

import msgspec

from driftwheel.contracts import Task
from driftwheel.errors import ConfigurationError
from training.config import (
    TrainConfig,
    config_fields,
    config_from,
    default_estimator,
    digest,
    estimator_config,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Float:
    """A number between two bounds, both included."""

    low: float
    high: float
    log: bool = False
    """Whether equal ratios are as likely as each other, in place of equal differences."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Int:
    """A whole number between two bounds, both included."""

    low: int
    high: int
    log: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One of a few values, without an order."""

    options: tuple[Any, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        """The options as JSON: what a storage keeps, and what plots show."""
        return tuple(msgspec.json.encode(option).decode() for option in self.options)


Knob = Float | Int | Choice
Space = dict[str, Knob]
Params = dict[str, Any]
"""Knob to value, as a storage keeps it: a choice is its label."""

RATING_SPACE: Space = {
    "learning_rate": Float(low=1e-3, high=0.1, log=True),
    "batch_rows": Choice(options=(1024, 2048, 4096, 8192)),
    "factors": Int(low=4, high=64, log=True),
    "vector_damping": Float(low=1.0, high=200.0, log=True),
    "bias_damping": Float(low=0.5, high=50.0, log=True),
}

BAYES_SPACE: Space = {
    "factors": Int(low=4, high=32, log=True),
    "kept_factors": Choice(options=(8, 16, 32, 64)),
    "epochs": Choice(options=(120, 240, 480)),
}

ALS_SPACE: Space = {
    "factors": Int(low=4, high=64, log=True),
    "vector_damping": Float(low=1.0, high=50.0, log=True),
    "bias_damping": Float(low=0.5, high=50.0, log=True),
}

IALS_SPACE: Space = {
    "factors": Int(low=16, high=128, log=True),
    "unobserved_weight": Float(low=0.03, high=3.0, log=True),
    "damping": Float(low=5e-4, high=0.05, log=True),
    "liked_share": Float(low=0.0, high=0.7),
    "half_life": Float(low=2.0, high=100.0, log=True),
}

NETWORK_SPACE: Space = {
    "learning_rate": Float(low=3e-4, high=0.03, log=True),
    "batch_rows": Choice(options=(128, 256, 512, 1024)),
    "embedding": Int(low=2, high=16, log=True),
    "hidden": Choice(options=((16,), (32,), (64,), (32, 16), (64, 32))),
    "dropout": Float(low=0.0, high=0.6),
    "weight_decay": Float(low=1e-6, high=0.1, log=True),
    "bins": Choice(options=(0, 8, 16, 32)),
    "heads": Choice(options=(1, 4, 8, 16)),
    "calibration_spread": Float(low=0.01, high=1.0, log=True),
}

FOREST_SPACE: Space = {
    "trees": Choice(options=(200, 500, 1000)),
    "min_leaf_rows": Int(low=1, high=50, log=True),
}

BOOSTING_SPACE: Space = {
    "learning_rate": Float(low=0.01, high=0.2, log=True),
    "leaves": Int(low=3, high=64, log=True),
    "min_leaf_rows": Int(low=5, high=200, log=True),
    "l2": Float(low=0.01, high=100.0, log=True),
}

SPACES: dict[str, Space] = {
    "bayes": BAYES_SPACE,
    "als": ALS_SPACE,
    "ials": IALS_SPACE,
    "sgd": RATING_SPACE,
    "network": NETWORK_SPACE,
    "forest": FOREST_SPACE,
    "boosting": BOOSTING_SPACE,
}
"""By estimator."""

PRUNED = frozenset({"bayes", "als", "ials", "sgd", "network"})
"""The estimators that tell each epoch as it ends, and whose epochs compare. An ensemble's first trees say little of what
all of them will be, and there is no time to be saved: they are told of when the last has grown.
"""


def space_of(task: Task, estimator: str | None = None) -> Space:
    """The knobs of an estimator (of the task's default) that are searched.

    Raises:
        ConfigurationError: There is no such estimator, or nothing of it is searched.
    """
    name = estimator or default_estimator(task)
    estimator_config(task, name)
    if name not in SPACES:
        raise ConfigurationError(f"nothing of the estimator {name!r} is searched; tune knows: {', '.join(SPACES)}")
    return SPACES[name]


def is_pruned(task: Task, estimator: str | None = None) -> bool:
    """Whether trials of an estimator may be cut short."""
    return (estimator or default_estimator(task)) in PRUNED


def default_params(task: Task, estimator: str | None = None) -> Params:
    """The defaults, as the point of the space that is tried first."""
    fields = config_fields(_defaults(task, estimator))
    return {name: _stored(knob, fields[name]) for name, knob in space_of(task, estimator).items()}


def configured(
    task: Task, params: Params, estimator: str | None = None, *, base: TrainConfig | None = None
) -> TrainConfig:
    """A configuration with a point of the space laid over it.

    Args:
        base: What the knobs that are not in ``params`` are taken from; the estimator's defaults unless given.

    Raises:
        msgspec.ValidationError: A value does not fit its knob.
    """
    space = space_of(task, estimator)
    chosen = {name: _knob_value(space[name], value) for name, value in params.items() if name in space}
    return config_from(task, {**config_fields(base or _defaults(task, estimator)), **chosen})


def space_digest(task: Task, seed: int, estimator: str | None = None) -> str:
    """What the trials of one study have in common besides their data, as a short name."""
    space = space_of(task, estimator)
    knobs = {name: (type(knob).__name__, msgspec.to_builtins(knob)) for name, knob in space.items()}
    return digest(knobs, config_fields(_defaults(task, estimator)), seed)


def _defaults(task: Task, estimator: str | None) -> TrainConfig:
    return estimator_config(task, estimator or default_estimator(task))


def _stored(knob: Knob, value: Any) -> Any:
    return msgspec.json.encode(value).decode() if isinstance(knob, Choice) else value


def _knob_value(knob: Knob, stored: Any) -> Any:
    return msgspec.json.decode(stored) if isinstance(knob, Choice) else stored
