"""Command lines of ours, in this process: parsed and not run, or run."""

import io
import signal
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import typer.main

from driftwheel.cli import app, main


def parsed(words: list[str]) -> dict[str, Any]:
    """The global options of a command line of ours, with its command's own, by flag as the command line has it."""
    command: Any = typer.main.get_command(app)
    context, found = command.make_context("driftwheel", list(words)), dict[str, Any]()
    while hasattr(command, "resolve_command"):
        found |= context.params
        name, command, rest = command.resolve_command(context, [*context._protected_args, *context.args])
        context = command.make_context(name, rest, parent=context)
    return found | context.params


def called(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """What a command line of ours says, and how it ends. A process for it, as ``tests/driftwheel/test_cli.py`` starts them,
    needs seconds to import what is imported here already.
    """
    command = ["driftwheel", "--home", str(home), *words]
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    out, err, code = io.StringIO(), io.StringIO(), 0
    try:
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
            patch.setattr(sys, "argv", command)
            main()
    except SystemExit as ended:
        code = int(ended.code or 0)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return subprocess.CompletedProcess(command, code, out.getvalue(), err.getvalue())
