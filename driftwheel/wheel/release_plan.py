"""A release's plan from a file."""

import tomllib
from pathlib import Path

import msgspec

from driftwheel.errors import ConfigurationError
from driftwheel.rollout import DEFAULT_STEPS


class Plan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The content of a plan file (TOML)."""

    steps: tuple[float, ...] = DEFAULT_STEPS
    """Shares of traffic, rising; the first may be 0: shadow."""
    shadow: float | None = None
    """The share of traffic that is copied while the candidate has none of its own."""


def read_plan(path: Path) -> Plan:
    """Read a plan.

    Raises:
        ConfigurationError: It cannot be read, or is no plan.
    """
    try:
        return msgspec.convert(tomllib.loads(path.read_text()), Plan)
    except OSError as error:
        raise ConfigurationError(f"the plan {path} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as error:
        raise ConfigurationError(
            f"{path} is no plan: {error}", hint="steps = [0, 0.01, 0.05, 0.25, 0.5, 1] and shadow = 0.1, for example"
        ) from None
