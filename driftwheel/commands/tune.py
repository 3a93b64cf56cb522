"""``driftwheel tune``: search for the parameters that train a model best."""

import signal
from typing import TYPE_CHECKING, Annotated

import typer

from driftwheel.commands.common import ANSWER, PEOPLE, EstimatorName, Json, ModelName, answer_json, resolved
from driftwheel.commands.tables import with_sources

if TYPE_CHECKING:
    from driftwheel.wheel.sources import Sources
    from driftwheel.wheel.tuning import TuneResult

_SHOWN = 5


@with_sources
def tune(
    ctx: typer.Context,
    model: ModelName,
    *,
    trials: Annotated[
        int | None, typer.Option(help="How many the study has in the end, earlier ones included.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Worker processes on this host; one that is killed leaves the others at work.")
    ] = None,
    estimator: EstimatorName = None,
    timeout: Annotated[float | None, typer.Option(help="End after so many seconds.")] = None,
    storage: Annotated[
        str | None,
        typer.Option(help="A file, mysql+pymysql://... or postgresql+psycopg://... (passwords: by the environment)."),
    ] = None,
    ranks: Annotated[int | None, typer.Option(help="Processes of each trial (DDP).")] = None,
    seed: Annotated[int | None, typer.Option(help="Everything random follows from it.")] = None,
    as_json: Json = False,
    sources: "Sources",
) -> None:
    """Search for a model's best parameters: TPE, bad trials cut short by the median; each trial trains under torchrun.

    Trials are measured by RMSE, log loss, or (ials) NDCG@10 over all items.
    They see training and validation rows alone. The best parameters are kept in the home, and the next train or retrain
    of that estimator uses them (--no-tuned: not). Interrupted, the same command goes on. Started several times, on one host
    or on many with one database as --storage, workers share the study; the trial of one that dies is run again by another.
    """
    from driftwheel.wheel.parameters import check_estimator
    from driftwheel.wheel.progress import SILENT, reporter_for
    from driftwheel.wheel.sources import remember
    from driftwheel.wheel.tuning import tune as run
    from training.resources import check_ranks, machine_memory_mb

    tuning = {"trials": trials, "workers": workers, "timeout_s": timeout, "storage": storage}
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: the trial under way is queued again
    settings = resolved(ctx, training={"ranks": ranks, "seed": seed}, tuning=tuning)
    check_estimator(sources.task_of(model), estimator)
    check_ranks(settings.training.ranks, machine_memory_mb())
    dataset = sources.prepare(sources.task_of(model), settings, until=sources.until, learn=False)
    remember(settings, sources)
    result = run(settings, model, dataset, SILENT if as_json else reporter_for(PEOPLE), estimator=estimator)
    if as_json:
        answer_json(_answer(result))
    else:
        _print(result)


def _answer(result: "TuneResult") -> dict[str, object]:
    import msgspec

    tuned, rows = msgspec.to_builtins(result.tuned), msgspec.to_builtins(result.rows)
    return {**tuned, "run_id": result.run_id, "importance": result.importance, "all_trials": rows}


def _print(result: "TuneResult") -> None:
    from rich.table import Table

    from training.tuning.trials import best_rows

    best = best_rows(result.rows)[:_SHOWN]
    table = Table("trial", *(str(row.number) for row in best), title="The best trials")
    table.add_row(result.tuned.metric, *(f"{row.value:.4f}" for row in best))
    table.add_row("epochs", *(str(row.epochs) for row in best))
    for knob in result.tuned.params:
        values = (row.params[knob] for row in best)
        table.add_row(knob, *(f"{value:.3g}" if isinstance(value, float) else str(value) for value in values))
    ANSWER.print(table)
    tuned = result.tuned
    PEOPLE.print(f"the next training of {tuned.model} by {tuned.estimator} uses trial {tuned.trial}", highlight=False)
