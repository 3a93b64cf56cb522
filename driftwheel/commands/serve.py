"""``driftwheel serve``: the server."""

from pathlib import Path
from typing import Annotated

import typer

from driftwheel.commands.common import resolved


def serve(
    ctx: typer.Context,
    *,
    port: Annotated[int | None, typer.Option(help="The one port, for gRPC and HTTP; 0 takes a free one.")] = None,
    host: Annotated[str | None, typer.Option(help="The address to listen on; loopback unless told otherwise.")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes that share the port; 1 unless told otherwise.")] = None,
    tls_certificate: Annotated[Path | None, typer.Option(help="The server's certificate chain, PEM: TLS only.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="The certificate's private key, PEM.")] = None,
    tls_client_ca: Annotated[
        Path | None, typer.Option(help="Authorities, PEM: clients must show a certificate that one of them signed.")
    ] = None,
    token_file: Annotated[
        Path | None, typer.Option(help="Bearer tokens by role; see: driftwheel token.", show_default="HOME/tokens.toml")
    ] = None,
) -> None:
    """Serve what the rollouts name, until SIGTERM or Ctrl-C, then drain.

    Speaks the Open Inference Protocol over gRPC and REST, typed JSON under /v1, and Prometheus under /metrics, all on one
    port. A rollout that changes takes effect between two requests; a damaged bundle is refused and what ran goes on.
    """
    from driftwheel.errors import ConfigurationError
    from driftwheel.rollout import list_rollouts
    from serving.front_door import become_supervisor

    security = {
        "tls_certificate": tls_certificate,
        "tls_key": tls_key,
        "tls_client_ca": tls_client_ca,
        "token_file": token_file,
    }
    settings = resolved(ctx, serving={"port": port, "host": host, "workers": workers}, security=security)
    if not list_rollouts(settings.rollouts):
        raise ConfigurationError(
            f"nothing to serve: no rollout under {settings.rollouts}",
            hint="driftwheel train mf --enter, or driftwheel canary promote MODEL VERSION for a bundle that is there",
        )
    become_supervisor(settings)
