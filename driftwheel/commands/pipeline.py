"""``driftwheel pipeline``: a version's way in as a pipeline, for Kubeflow or here."""

import signal
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from driftwheel.commands.common import PEOPLE, EstimatorName, Json, UseTuned, answer_json, resolved
from driftwheel.commands.tables import with_sources

if TYPE_CHECKING:
    from driftwheel.wheel.sources import Sources

app = typer.Typer(
    help="Prepare, train, evaluate, gate, export and deploy, as a pipeline: for Kubeflow Pipelines, or on this machine.",
    no_args_is_help=True,
)


@app.command("compile")
def compile_yaml(
    *,
    output: Annotated[Path, typer.Option(help="The file to write.")] = Path("k8s/pipelines/driftwheel.yaml"),
    image: Annotated[
        str | None,
        typer.Option(help="What the steps run in, with a tag or a digest.", show_default="driftwheel-training:0.1.0"),
    ] = None,
    claim: Annotated[
        str | None,
        typer.Option(help="The PersistentVolumeClaim that holds the home.", show_default="driftwheel-home"),
    ] = None,
) -> None:
    """Write the pipeline as YAML, for Kubeflow's page Upload pipeline or for its client.

    In it, export and deploy start only if the gate lets the version pass; what was trained is found again, and what fails is
    tried again.
    """
    from driftwheel.errors import ConfigurationError
    from driftwheel.pipelines.graph import CLAIM, IMAGE, compile_pipeline

    if output.suffix != ".yaml":
        raise ConfigurationError(f"--output must end in .yaml, got {output}")
    if image is not None and ":" not in image.rpartition("/")[2]:
        raise ConfigurationError(
            f"--image must have a tag or a digest, got {image!r}", hint=f"{image}:0.1.0, for example"
        )
    compile_pipeline(output, image=image or IMAGE, claim=claim or CLAIM)
    PEOPLE.print(f"{output}", highlight=False, soft_wrap=True)


@app.command()
@with_sources
def run(
    ctx: typer.Context,
    *,
    model: Annotated[
        str, typer.Option(help="The model's name: mf or churn, unless the tables give it another.")
    ] = "mf",
    estimator: EstimatorName = None,
    learn: Annotated[bool, typer.Option("--learn", help="Add what the prediction log has labels for.")] = False,
    ranks: Annotated[int | None, typer.Option(help="Processes on this machine (DDP).")] = None,
    seed: Annotated[int | None, typer.Option(help="Everything random in training follows from it.")] = None,
    tuned: UseTuned = None,
    store: Annotated[
        str, typer.Option(help="Publish to this store too, for servers with homes of their own: as fleet publish does.")
    ] = "",
    as_json: Json = False,
    sources: "Sources",
) -> None:
    """Run the pipeline on this machine: the same steps, by Kubeflow's own local runner, without a cluster.

    A version that passes the gate enters as with train --enter. Ends with code 5 if the gate refuses it; nothing is exported
    or deployed then. Artifacts lie in the home, under pipelines.
    """
    from driftwheel.pipelines.deployment import check_target
    from driftwheel.pipelines.local import run_locally
    from driftwheel.wheel.parameters import check_estimator
    from driftwheel.wheel.progress import SILENT, reporter_for

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: the steps end, and ranks save
    settings = resolved(ctx, training={"ranks": ranks, "seed": seed}, tuning={"use_best": tuned})
    check_estimator(sources.task_of(model), estimator)
    check_target(store, service="")
    outcome = run_locally(
        settings,
        sources,
        model,
        SILENT if as_json else reporter_for(PEOPLE),
        estimator=estimator,
        learn=learn,
        store=store,
    )
    if as_json:
        answer_json({"model": model, **asdict(outcome)})
    else:
        PEOPLE.print(
            f"{model} version {outcome.version}: {outcome.entry}; {outcome.reasons}", highlight=False, soft_wrap=True
        )
    if not outcome.passed:
        raise typer.Exit(5)
