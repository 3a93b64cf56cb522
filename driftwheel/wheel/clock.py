"""The time, as everything on disk writes it."""

from datetime import UTC, datetime


def now() -> str:
    """The present, ISO 8601 in UTC, to the microsecond."""
    return datetime.now(UTC).isoformat(timespec="microseconds")
