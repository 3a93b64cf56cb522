"""``driftwheel train``: from a table to a registered, exported version."""

import signal
from typing import TYPE_CHECKING, Annotated, Any

import typer

from driftwheel.commands.common import (
    PEOPLE,
    EstimatorName,
    Json,
    ModelName,
    SetParameters,
    UseTuned,
    answer_json,
    parsed_parameters,
    resolved,
)
from driftwheel.commands.plans import DryRun, show_plan
from driftwheel.commands.tables import with_sources

if TYPE_CHECKING:
    from driftwheel.wheel.sources import Sources


@with_sources
def train(
    ctx: typer.Context,
    model: ModelName,
    *,
    ranks: Annotated[int | None, typer.Option(help="Processes on this machine (DDP); 2 unless set.")] = None,
    seed: Annotated[int | None, typer.Option(help="Everything random in training follows from it.")] = None,
    enter: Annotated[
        bool,
        typer.Option("--enter", help="Let it in if the gate passes: the first version serves, others go on trial."),
    ] = False,
    register_only: Annotated[
        bool, typer.Option("--register-only", help="Stop once it is registered: no gate, no export.")
    ] = False,
    estimator: EstimatorName = None,
    parameters: SetParameters = None,
    learn: Annotated[bool, typer.Option("--learn", help="Add what the prediction log has labels for.")] = False,
    tuned: UseTuned = None,
    dry_run: DryRun = False,
    as_json: Json = False,
    sources: "Sources",
) -> None:
    """Train a model under torchrun, track and register it in MLflow, pass it through the gate and export it.

    MLflow gets parameters, metrics by epoch, time and memory, both datasets, plots, and a model that mlflow.pyfunc loads;
    the run on one page of HTML lies in the home's reports too. Look before you leap: --dry-run.

    Ends with code 5 if the gate refuses it. The same data, configuration and seed find the job that is there; one that
    was interrupted, by Ctrl-C, SIGTERM or a crash, goes on from its checkpoint.
    """
    from driftwheel.errors import ConfigurationError
    from driftwheel.wheel.dry_run import plan_training
    from driftwheel.wheel.lifecycle import enter as let_in
    from driftwheel.wheel.lifecycle import make_version, train_version
    from driftwheel.wheel.parameters import check_estimator
    from driftwheel.wheel.progress import SILENT, reporter_for
    from driftwheel.wheel.sources import remember
    from training.resources import check_ranks, machine_memory_mb

    if register_only and enter:
        raise ConfigurationError(
            "--register-only and --enter exclude each other: what no gate has judged does not enter"
        )
    given = parsed_parameters(parameters)
    settings = resolved(ctx, training={"ranks": ranks, "seed": seed, "parameters": given}, tuning={"use_best": tuned})
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: the ranks save before this process ends
    reporter = SILENT if as_json else reporter_for(PEOPLE)
    task = sources.task_of(model)
    check_estimator(task, estimator, given)
    check_ranks(settings.training.ranks, machine_memory_mb())
    dataset = sources.prepare(task, settings, until=sources.until, learn=learn)
    if dry_run:
        show_plan(plan_training(settings, model, dataset, reporter, estimator=estimator, enters=enter), as_json=as_json)
        return
    remember(settings, sources)
    if register_only:
        known = train_version(settings, model, dataset, reporter, estimator=estimator)
        facts = {"model": model, "version": known.version, "run_id": known.run_id, "entry": "registered"}
        _say(facts | {"metrics": known.shipped.metrics, "report": known.report}, as_json=as_json)
        return
    made = make_version(settings, model, dataset, reporter, estimator=estimator)
    entry = let_in(settings, made, by="train")[0] if enter else ("exported" if made.bundle else "refused")
    facts = {
        "model": model,
        "version": made.version,
        "run_id": made.run_id,
        "entry": entry,
        "metrics": made.metrics,
        "champion_metrics": made.champion_metrics,
        "tuned": made.tuned.tags if made.tuned else None,
        "reasons": made.verdict.reasons,
        "bundle": made.bundle.folder if made.bundle else None,
        "report": made.report,
    }
    _say(facts, as_json=as_json)
    if not made.verdict.passed:
        raise typer.Exit(5)


def _say(facts: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        answer_json(facts)
        return
    page = f"; its run on one page: {facts['report']}" if facts["report"] else ""
    PEOPLE.print(
        f"{facts['model']} version {facts['version']}: {facts['entry']}{page}", highlight=False, soft_wrap=True
    )
