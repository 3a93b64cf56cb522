"""What commands share: resolved settings, the two consoles, and the answer as JSON."""

import json
from datetime import datetime
from typing import Annotated, Any

import typer
from rich.console import Console

from driftwheel.errors import ConfigurationError
from driftwheel.settings import Settings, load_settings

PEOPLE = Console(stderr=True, markup=False)
"""Progress and notes: standard error, so that standard output holds the answer alone. No markup:
what is printed can be a user's own words, and "[/b]" in them must stay "[/b]"."""

ANSWER = Console(markup=False)

Json = Annotated[bool, typer.Option("--json", help="Answer in JSON, for scripts.")]
UseTuned = Annotated[
    bool | None,
    typer.Option(
        "--tuned/--no-tuned", help="Take the best parameters that tune found, or the defaults. Default: tuned."
    ),
]
EstimatorName = Annotated[
    str | None,
    typer.Option(
        "--estimator",
        help="What learns. Ratings: bayes, sgd, als or ials. Customers: network, or scikit-learn's forest or boosting.",
    ),
]
SetParameters = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="A parameter of the estimator, as --set epochs=50 --set missed_cost=3; retrains keep it.",
    ),
]
ModelName = Annotated[str, typer.Argument(metavar="MODEL", help="The model's name, for example mf or churn.")]


def resolved(ctx: typer.Context, **sections: dict[str, Any]) -> Settings:
    """The settings with a command's own flags, by section; None where a flag was not given."""
    given: dict[str, Any] = dict(ctx.obj["flags"])
    for section, values in sections.items():
        if nested := {key: value for key, value in values.items() if value is not None}:
            given[section] = nested
    return load_settings(config=ctx.obj["config"], **given)


def answer_json(value: object) -> None:
    """Print JSON on standard output."""
    typer.echo(json.dumps(value, indent=2, default=str))


def check_moment(flag: str, text: str) -> None:
    """Refuse what is not a date or time.

    Raises:
        ConfigurationError: It is not ISO 8601.
    """
    try:
        datetime.fromisoformat(text)
    except ValueError:
        raise ConfigurationError(f"{flag} must be an ISO 8601 date or time, got {text!r}") from None


def parsed_parameters(given: list[str] | None) -> dict[str, object] | None:
    """What ``--set`` was given, by name; values as JSON has them, or else as they are. None where nothing was.

    Raises:
        ConfigurationError: One is not NAME=VALUE.
    """
    found: dict[str, object] = {}
    for one in given or ():
        name, equals, value = one.partition("=")
        if not (name and equals):
            raise ConfigurationError(f"--set must be NAME=VALUE, got {one!r}")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found or None
