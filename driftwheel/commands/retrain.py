"""``driftwheel retrain``: the same training, on data to date, entering as a candidate."""

import signal
from typing import TYPE_CHECKING, Annotated, cast, get_args

import typer

from driftwheel.commands.common import PEOPLE, EstimatorName, Json, ModelName, UseTuned, answer_json, resolved
from driftwheel.commands.plans import DryRun, show_plan
from driftwheel.commands.tables import with_sources

if TYPE_CHECKING:
    from driftwheel.wheel.sources import Sources


@with_sources
def retrain(
    ctx: typer.Context,
    model: ModelName,
    *,
    on_drift: Annotated[
        bool, typer.Option("--on-drift", help="Look for drift first, and only retrain where the policy allows it.")
    ] = False,
    reason: Annotated[str, typer.Option(help="Why, for the ledger.")] = "by hand",
    trigger: Annotated[
        str, typer.Option(help="What set it off, for the metrics: by hand, schedule, alert or drift.")
    ] = "by hand",
    estimator: EstimatorName = None,
    tuned: UseTuned = None,
    dry_run: DryRun = False,
    as_json: Json = False,
    sources: "Sources",
) -> None:
    """Train on the source (until --until) and on all that the log has labels for; a version that passes goes on trial.

    What made the version in service is trained again, with the parameters that tune found since, or else with its own;
    --estimator makes it another.
    """
    from driftwheel.errors import ConfigurationError
    from driftwheel.wheel.parameters import check_estimator
    from driftwheel.wheel.progress import SILENT, reporter_for
    from driftwheel.wheel.retraining import permission, plan_retrain
    from driftwheel.wheel.retraining import retrain as run
    from driftwheel.wheel.watching import check_drift
    from monitoring.retrain import Trigger

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: the ranks save before this process ends
    settings = resolved(ctx, tuning={"use_best": tuned})
    if trigger not in get_args(Trigger):
        raise ConfigurationError(f"--trigger must be one of {', '.join(get_args(Trigger))}, got {trigger!r}")
    check_estimator(sources.task_of(model), estimator)
    if on_drift:
        verdict = permission(settings, model, check_drift(settings, model).decision)
        if not verdict.allowed:
            _say({"model": model, "outcome": f"not retrained: {verdict.reason}", "version": None}, as_json=as_json)
            return
        reason, trigger = f"drift job: {verdict.reason}", "drift"
    reporter = SILENT if as_json else reporter_for(PEOPLE)
    if dry_run:
        show_plan(
            plan_retrain(settings, sources, model, reporter, until=sources.until, estimator=estimator), as_json=as_json
        )
        return
    result = run(
        settings,
        sources,
        model,
        reporter,
        reason=reason,
        trigger=cast("Trigger", trigger),
        until=sources.until,
        steps=settings.retrain.steps,
        estimator=estimator,
    )
    version = result.made.version if result.made else None
    _say({"model": model, "outcome": result.outcome, "version": version}, as_json=as_json)


def _say(answer: dict[str, object], *, as_json: bool) -> None:
    if as_json:
        answer_json(answer)
    else:
        PEOPLE.print(f"{answer['model']}: {answer['outcome']}", highlight=False)
