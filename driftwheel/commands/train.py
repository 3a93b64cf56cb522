"""``driftwheel train``: from a table to a registered, exported version."""

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from driftwheel.commands.common import PEOPLE, Json, ModelName, UseTuned, answer_json, resolved
from driftwheel.commands.tables import with_sources

if TYPE_CHECKING:
    from driftwheel.contracts import Task
    from driftwheel.wheel.sources import Sources
    from training.config import TrainConfig


class Kind(StrEnum):
    """What learns from customers."""

    NETWORK = "network"
    FOREST = "forest"
    BOOSTING = "boosting"


@with_sources
def train(
    ctx: typer.Context,
    model: ModelName,
    *,
    ranks: Annotated[int | None, typer.Option(help="Processes on this machine (DDP).")] = None,
    seed: Annotated[int | None, typer.Option(help="Everything random in training follows from it.")] = None,
    enter: Annotated[
        bool,
        typer.Option("--enter", help="Let it in if the gate passes: the first version serves, others go on trial."),
    ] = False,
    estimator: Annotated[
        Kind | None,
        typer.Option(help="What learns from customers: our network, or scikit-learn's random forest or boosted trees."),
    ] = None,
    learn: Annotated[bool, typer.Option("--learn", help="Add what the prediction log has labels for.")] = False,
    tuned: UseTuned = None,
    as_json: Json = False,
    sources: "Sources",
) -> None:
    """Train a model under torchrun, track and register it in MLflow, pass it through the gate and export it.

    Ends with code 5 if the gate refuses it. The same data, configuration and seed find the job that is there.
    """
    from driftwheel.wheel.lifecycle import enter as let_in
    from driftwheel.wheel.lifecycle import make_version
    from driftwheel.wheel.progress import SILENT, reporter_for
    from driftwheel.wheel.sources import remember

    settings = resolved(ctx, training={"ranks": ranks, "seed": seed}, tuning={"use_best": tuned})
    reporter = SILENT if as_json else reporter_for(PEOPLE)
    task = sources.task_of(model)
    config = _config(task, estimator)
    dataset = sources.prepare(task, settings, until=sources.until, learn=learn)
    remember(settings, sources)
    made = make_version(settings, model, dataset, reporter, config=config)
    entry = let_in(settings, made, by="train")[0] if enter else ("exported" if made.bundle else "refused")
    if as_json:
        answer_json(
            {
                "model": model,
                "version": made.version,
                "run_id": made.run_id,
                "entry": entry,
                "metrics": made.metrics,
                "champion_metrics": made.champion_metrics,
                "tuned": made.tuned.tags if made.tuned else None,
                "reasons": made.verdict.reasons,
                "bundle": made.bundle.folder if made.bundle else None,
            }
        )
    else:
        PEOPLE.print(f"{model} version {made.version}: {entry}", highlight=False)
    if not made.verdict.passed:
        raise typer.Exit(5)


def _config(task: "Task", estimator: Kind | None) -> "TrainConfig | None":
    """An estimator's defaults; None leaves our own models their parameters, tuned ones if there are."""
    from driftwheel.errors import ConfigurationError
    from training.config import estimator_config

    if estimator is None:
        return None
    if task != "churn":
        raise ConfigurationError(f"--estimator {estimator.value} learns from customers, and this is a model of ratings")
    return None if estimator is Kind.NETWORK else estimator_config(estimator.value)
