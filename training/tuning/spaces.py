"""What is searched: for each task the knobs that vary, as data. The others keep their defaults."""

from dataclasses import dataclass
from typing import Any

import msgspec

from driftwheel.contracts import Task
from training.config import TrainConfig, config_fields, config_from, default_config, digest


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

CHURN_SPACE: Space = {
    "learning_rate": Float(low=3e-4, high=0.03, log=True),
    "batch_rows": Choice(options=(128, 256, 512, 1024)),
    "embedding": Int(low=2, high=16, log=True),
    "hidden": Choice(options=((16,), (32,), (64,), (32, 16), (64, 32))),
    "dropout": Float(low=0.0, high=0.6),
    "weight_decay": Float(low=1e-6, high=0.1, log=True),
}


def space_of(task: Task) -> Space:
    """The knobs of a task that are searched."""
    return RATING_SPACE if task == "rating" else CHURN_SPACE


def default_params(task: Task) -> Params:
    """The defaults, as the point of the space that is tried first."""
    fields = config_fields(default_config(task))
    return {name: _stored(knob, fields[name]) for name, knob in space_of(task).items()}


def configured(task: Task, params: Params) -> TrainConfig:
    """The defaults with a point of the space laid over them.

    Raises:
        msgspec.ValidationError: A value does not fit its knob.
    """
    space = space_of(task)
    chosen = {name: _knob_value(space[name], value) for name, value in params.items() if name in space}
    return config_from(task, {**config_fields(default_config(task)), **chosen})


def space_digest(task: Task, seed: int) -> str:
    """What the trials of one study have in common besides their data, as a short name."""
    knobs = {name: (type(knob).__name__, msgspec.to_builtins(knob)) for name, knob in space_of(task).items()}
    return digest(knobs, config_fields(default_config(task)), seed)


def _stored(knob: Knob, value: Any) -> Any:
    return msgspec.json.encode(value).decode() if isinstance(knob, Choice) else value


def _knob_value(knob: Knob, stored: Any) -> Any:
    return msgspec.json.decode(stored) if isinstance(knob, Choice) else stored
