"""``driftwheel token``: who may call the server, and for what."""

from pathlib import Path
from typing import Annotated

import typer

from driftwheel.commands.common import ANSWER, PEOPLE, Json, answer_json, resolved

app = typer.Typer(
    help="Bearer tokens: make, list, revoke. A running server follows within a second.", no_args_is_help=True
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="Whose token it is.")]


def _path(ctx: typer.Context) -> Path:
    from serving.security import default_token_file

    settings = resolved(ctx)
    return settings.security.token_file or default_token_file(settings)


@app.command()
def new(
    ctx: typer.Context,
    *,
    role: Annotated[
        list[str],
        typer.Option(help="infer, feedback, retrain, console or admin (which may do all); give it twice for two."),
    ],
    name: Annotated[str, typer.Option(help="Whose token it is.")],
    as_json: Json = False,
) -> None:
    """Make a token and print it, once: only its digest is kept."""
    from serving.tokens import add_token, parse_roles

    path = _path(ctx)
    first = not path.exists()
    token = add_token(path, name, parse_roles(role))
    if as_json:
        answer_json({"name": name, "roles": sorted(set(role)), "token": token, "file": str(path)})
        return
    ANSWER.print(token, soft_wrap=True, highlight=False)
    PEOPLE.print(
        f"Send it as the header 'authorization: Bearer TOKEN'. It is shown this once; its digest is in {path}."
    )
    if first:
        PEOPLE.print("From its next start on, the server asks for a token on every call but health checks.")


@app.command("list")
def list_(ctx: typer.Context, *, as_json: Json = False) -> None:
    """Names and roles."""
    from serving.tokens import read_tokens

    tokens = read_tokens(_path(ctx))
    if as_json:
        answer_json([{"name": name, "roles": sorted(token.roles)} for name, token in sorted(tokens.items())])
        return
    for name, token in sorted(tokens.items()):
        ANSWER.print(f"{name}  {', '.join(sorted(token.roles))}", highlight=False)


@app.command()
def revoke(ctx: typer.Context, name: Name) -> None:
    """Take a token away."""
    from serving.tokens import revoke_token

    path = _path(ctx)
    revoke_token(path, name)
    PEOPLE.print(f"{name} is out of {path}; a running server refuses it within a second.")
