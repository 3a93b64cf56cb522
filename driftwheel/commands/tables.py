"""The options that name a user's own tables, declared once for every command that takes them."""

import dataclasses
import functools
import inspect
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from driftwheel.commands.common import resolved
from driftwheel.errors import ConfigurationError

if TYPE_CHECKING:
    from driftwheel.wheel.sources import Sources


def _option(panel: str, text: str, *names: str) -> Any:
    return typer.Option(*names, help=text, rich_help_panel=panel)


_R = "Your ratings"
_C = "Your customers"
_WHERE = "CSV or Parquet, a path, s3:// or gs://. Default:"

_OPTIONS: dict[str, tuple[Any, Any]] = {
    "ratings": (Annotated[str | None, _option(_R, f"One rating a row; {_WHERE} MovieLens, as packaged.")], None),
    "user_column": (Annotated[str, _option(_R, "The user's id.")], "user_id"),
    "item_column": (Annotated[str, _option(_R, "The item's id.")], "item_id"),
    "rating_column": (Annotated[str, _option(_R, "The rating.")], "rating"),
    "time_column": (Annotated[str, _option(_R, "When: ISO 8601 or epoch seconds; '' for none.")], "timestamp"),
    "title_column": (Annotated[str, _option(_R, "The item's title; '' for none.")], "title"),
    "trait_columns": (
        Annotated[
            str,
            _option(_R, "What is known of items, columns with commas: numbers, or categories with | between them."),
        ],
        "",
    ),
    "rating_range": (Annotated[tuple[float, float], _option(_R, "The lowest and the highest rating.")], (0.5, 5.0)),
    "until": (Annotated[str | None, _option(_R, "Only ratings before this moment (ISO 8601).")], None),
    "rating_model": (Annotated[str, _option(_R, "The name of the model made of them.")], "mf"),
    "customers": (Annotated[str | None, _option(_C, f"One customer a row; {_WHERE} Telco churn, as packaged.")], None),
    "label_column": (Annotated[str, _option(_C, "Whether the customer left.")], "churn"),
    "positive_label": (Annotated[str, _option(_C, "The label's value for 'left'.")], "Yes"),
    "id_column": (Annotated[str | None, _option(_C, "The customer's id; never a feature.")], None),
    "categorical": (Annotated[str, _option(_C, "Category columns, with commas. Default: judged.")], ""),
    "numeric": (Annotated[str, _option(_C, "Number columns, with commas. Default: judged.")], ""),
    "drop": (Annotated[str, _option(_C, "Columns to leave out, with commas.")], ""),
    "churn_model": (Annotated[str, _option(_C, "The name of the model made of them.")], "churn"),
}


def with_sources(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options above, and the ``Sources`` that they name as its argument ``sources``."""
    own = inspect.signature(command)
    kept = [parameter for name, parameter in own.parameters.items() if name != "sources"]
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for name, (annotation, default) in _OPTIONS.items()
    ]

    @functools.wraps(command)
    def wrapped(*args: Any, **options: Any) -> None:
        named = {name: options.pop(name) for name in _OPTIONS}
        context: typer.Context = options["ctx"] if "ctx" in options else args[0]
        command(*args, **options, sources=_with_remembered(context, named))

    # Typer reads the signature and the annotations of what it is given.
    signature = own.replace(parameters=[*kept, *added])
    annotations = {parameter.name: parameter.annotation for parameter in signature.parameters.values()}
    wrapped.__dict__["__signature__"] = signature
    wrapped.__annotations__ = annotations | {"return": None}
    return wrapped


def _with_remembered(ctx: typer.Context, options: dict[str, Any]) -> "Sources":
    """The sources that options name; what no option names is what this home was trained on before."""
    from driftwheel.wheel.sources import recall

    named = _sources(options)
    before = recall(resolved(ctx))
    if before is None:
        return named
    given = {name for name, value in options.items() if value != _OPTIONS[name][1]}
    ratings = {"ratings", "user_column", "item_column", "rating_column", "time_column", "title_column"}
    ratings |= {"trait_columns", "rating_range"}
    customers = {"customers", "label_column", "positive_label", "id_column", "categorical", "numeric", "drop"}
    return dataclasses.replace(
        named,
        ratings=named.ratings if given & ratings else before.ratings,
        customers=named.customers if given & customers else before.customers,
        rating_model=named.rating_model if "rating_model" in given else before.rating_model,
        churn_model=named.churn_model if "churn_model" in given else before.churn_model,
        until=named.until if given & {"until", *ratings} else before.until,
    )


def _sources(options: dict[str, Any]) -> "Sources":
    from driftwheel.wheel.sources import Sources
    from training.data.sources import CustomersSource, RatingsSource

    low, high = options["rating_range"]
    if not -math.inf < low < high < math.inf:
        raise ConfigurationError(f"--rating-range: expected the lowest rating, then a higher one, got {low:g} {high:g}")
    ratings = RatingsSource(
        path=options["ratings"],
        user_column=options["user_column"],
        item_column=options["item_column"],
        rating_column=options["rating_column"],
        time_column=options["time_column"] or None,
        title_column=options["title_column"] or None,
        trait_columns=_words(options["trait_columns"]),
        rating_low=low,
        rating_high=high,
    )
    customers = CustomersSource(
        path=options["customers"],
        label_column=options["label_column"],
        positive_label=options["positive_label"],
        id_column=options["id_column"],
        categorical=_words(options["categorical"]),
        numeric=_words(options["numeric"]),
        drop=_words(options["drop"]),
    )
    return Sources(
        ratings=ratings,
        customers=customers,
        rating_model=options["rating_model"],
        churn_model=options["churn_model"],
        until=options["until"],
    )


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())
