"""Drift reports in the home: which there are, and their bytes. Nothing outside the reports' folder is ever read."""

import re
from pathlib import Path

from driftwheel.errors import NotFoundError, TooLargeError
from driftwheel.names import is_name

LARGEST_REPORT = 64 * 1024 * 1024
"""Bytes."""

_FILE = re.compile(r"[A-Za-z0-9_-]{1,200}\.html")


def report_name(model: str, version: int, at: str) -> str:
    """What the report of a drift decision is called (``monitoring.drift.report`` writes it)."""
    return f"{model}-{version}-{re.sub(r'[^0-9A-Za-z]+', '', at)}.html"


def has_report(reports: Path, model: str, name: str) -> bool:
    """Whether there is a report of that name."""
    return (reports / model / name).is_file()


def read_report(reports: Path, model: str, name: str) -> bytes:
    """The HTML of a report.

    Raises:
        NotFoundError: There is none, or the name or a link leads out of the folder.
        TooLargeError: It is larger than ``LARGEST_REPORT``.
    """
    missing = NotFoundError(f"model {model[:80]!r} has no report {name[:80]!r}")
    if not is_name(model) or not _FILE.fullmatch(name):
        raise missing
    path = (reports / model / name).resolve()
    if not path.is_relative_to(reports.resolve()) or not path.is_file():
        raise missing
    if (size := path.stat().st_size) > LARGEST_REPORT:
        raise TooLargeError(f"the report {name} has {size} bytes; at most {LARGEST_REPORT} are shown")
    return path.read_bytes()
