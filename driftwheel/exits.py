"""How a process of ours ends when something is wrong: one clear message, and an exit code."""

import errno
import os
import sqlite3
import sys
from collections.abc import Generator
from contextlib import contextmanager
from typing import NoReturn

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

_UNUSABLE = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_IOERR}
"""The same of a database in the home, the ledger's or MLflow's."""


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
        _end_for_want_of_room(what)
    except Exception as error:
        if (reason := _unusable_database(error)) is None:
            raise
        _end_for_want_of_room(reason)


def _end_for_want_of_room(what: str) -> NoReturn:
    complain(what, "is the home (--home) on a disk that can be written to, with room left?")
    sys.exit(EXIT_CODES[ConfigurationError])


def _unusable_database(error: BaseException | None) -> str | None:
    """What SQLite says of its file, where that is what an error comes from; MLflow wraps it in errors of its own."""
    while error is not None:
        if isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorcode", 0) & 0xFF in _UNUSABLE:
            return str(error)
        error = error.__cause__ or error.__context__
    return None


def complain(message: str, hint: str | None) -> None:
    """Tell people what is wrong, and what to do next."""
    # The supervisor, which lives long, does without it as long as all is well.
    from rich.console import Console
    from rich.markup import escape

    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print(f"[bold red]error:[/] {escape(message)}")
    if hint:
        console.print(f"[bold]next:[/] {escape(hint)}")
