"""How a process of ours ends when something is wrong: one clear message, and an exit code."""

import errno
import os
import sys
from collections.abc import Generator
from contextlib import contextmanager

from driftwheel.errors import (
    BundleError,
    BusyError,
    ConfigurationError,
    DataError,
    DriftwheelError,
    ExportError,
    NotFoundError,
    RolloutError,
    TrainingError,
)

EXIT_CODES: dict[type[DriftwheelError], int] = {
    ConfigurationError: 2,
    DataError: 3,
    BundleError: 4,
    NotFoundError: 4,
    TrainingError: 5,
    ExportError: 5,
    RolloutError: 6,
    BusyError: 7,
}
"""0 is success, 1 any other failure, 2 also a wrong flag; ``canary judge`` and ``drift run`` document their own above 9."""

_FULL = {errno.ENOSPC, errno.EDQUOT}
"""What a write says that fails for want of room: unlike opening a file, it does not name it."""


def exit_code(error: DriftwheelError) -> int:
    """The exit code of an error: its class's, or the nearest base's."""
    return next((EXIT_CODES[kind] for kind in type(error).__mro__ if kind in EXIT_CODES), 1)


@contextmanager
def error_exits() -> Generator[None]:
    """Errors of ours, and files that cannot be used, end the process with one clear message and their exit code."""
    try:
        yield
    except DriftwheelError as error:
        complain(error.message, error.hint)
        sys.exit(exit_code(error))
    except OSError as error:
        if error.filename:
            what = f"{error.strerror}: {error.filename}"
        elif error.errno in _FULL:
            what = os.strerror(error.errno)
        else:
            raise
        complain(what, "is the home (--home) on a disk that can be written to, with room left?")
        sys.exit(EXIT_CODES[ConfigurationError])


def complain(message: str, hint: str | None) -> None:
    """Tell people what is wrong, and what to do next."""
    # The supervisor, which lives long, does without it as long as all is well.
    from rich.console import Console
    from rich.markup import escape

    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print(f"[bold red]error:[/] {escape(message)}")
    if hint:
        console.print(f"[bold]next:[/] {escape(hint)}")
