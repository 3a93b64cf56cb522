"""Command lines of ours, parsed as the command line itself parses them, and not run."""

from typing import Any

import typer.main

from driftwheel.cli import app


def parsed(words: list[str]) -> dict[str, Any]:
    """The global options of a command line of ours, with its command's own, by flag as the command line has it."""
    command: Any = typer.main.get_command(app)
    context, found = command.make_context("driftwheel", list(words)), dict[str, Any]()
    while hasattr(command, "resolve_command"):
        found |= context.params
        name, command, rest = command.resolve_command(context, [*context._protected_args, *context.args])
        context = command.make_context(name, rest, parent=context)
    return found | context.params
