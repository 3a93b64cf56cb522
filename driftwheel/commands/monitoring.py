"""``driftwheel monitoring``: metrics of the wheel, Alertmanager's webhook, and files for Prometheus and Grafana."""

import signal
from pathlib import Path
from typing import Annotated

import typer

from driftwheel.commands.common import ANSWER, PEOPLE, Json, answer_json, resolved

app = typer.Typer(
    help="Metrics of what the wheel decided, retrains that alerts ask for, alerts and dashboards.", no_args_is_help=True
)


@app.command()
def serve(
    ctx: typer.Context,
    *,
    port: Annotated[int | None, typer.Option(help="The port; 9108 unless told otherwise; 0 takes a free one.")] = None,
    host: Annotated[str | None, typer.Option(help="The address to listen on; loopback unless told otherwise.")] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(help="Tokens of those who may ask for retrains.", show_default="that of driftwheel serve"),
    ] = None,
) -> None:
    """Offer /metrics of drift, quality, retrains and releases, and a webhook for Alertmanager, until SIGTERM or Ctrl-C.

    An alert that arrives at /v1/alerts starts a retrain of the model in its labels, where cool-down, daily cap and the
    newest drift decision allow one: once for each time that it fires. It needs a token: driftwheel token new --role retrain.
    """
    from driftwheel.wheel.watcher import watching

    settings = resolved(ctx, monitoring={"port": port, "host": host, "token_file": token_file})
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with watching(settings) as server:
        address, listening = server.server_address[:2]
        shown = f"[{address}]" if ":" in str(address) else address
        PEOPLE.print(f"Metrics at http://{shown}:{listening}/metrics until Ctrl-C.", highlight=False)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            PEOPLE.print("Ending.")


@app.command()
def export(
    ctx: typer.Context,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where the files go; made where it is missing.")],
    *,
    server: Annotated[
        list[str] | None,
        typer.Option(help="HOST:PORT of a server to scrape; give it twice for two.", show_default="localhost:8080"),
    ] = None,
    watcher: Annotated[str, typer.Option(help="HOST:PORT of driftwheel monitoring serve.")] = "localhost:9108",
    alertmanager: Annotated[str, typer.Option(help="HOST:PORT of Alertmanager.")] = "localhost:9093",
    prometheus: Annotated[
        str, typer.Option(help="The URL by which Grafana reaches Prometheus.")
    ] = "http://localhost:9090",
    runbooks: Annotated[
        str | None, typer.Option(help="The URL of the folder with the runbooks.", show_default="as in the project")
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(help="The watcher's token file: Alertmanager gets a token of it, made where it has none."),
    ] = None,
    make_password: Annotated[
        bool, typer.Option("--make-password", help="Make a password for Grafana's admin, where there is none.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Write rules, dashboards and the configuration of Prometheus, Alertmanager and Grafana.

    Secrets go into alertmanager/token and grafana/password, which their owner and their group may read.
    """
    from driftwheel.wheel.monitoring_files import Places, export_files
    from driftwheel.wheel.monitoring_secrets import PASSWORD, TOKEN, ensure_password, ensure_token

    del ctx
    places = Places(
        servers=tuple(server or ["localhost:8080"]),
        watcher=watcher,
        alertmanager=alertmanager,
        prometheus=prometheus,
        runbooks=runbooks,
    )
    written = export_files(folder, places)
    made = [
        *([TOKEN] if token_file is not None and ensure_token(folder, token_file) else []),
        *([PASSWORD] if make_password and ensure_password(folder) else []),
    ]
    if as_json:
        answer_json({"folder": str(folder), "files": written, "secrets_made": made})
        return
    ANSWER.print(f"{len(written)} files in {folder}:", highlight=False, soft_wrap=True)
    for name in written:
        ANSWER.print(f"  {name}", highlight=False, soft_wrap=True)
    for name in made:
        ANSWER.print(f"  {name}, a new secret", highlight=False, soft_wrap=True)
