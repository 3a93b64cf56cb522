"""The ledger as the console reads it: only to read, a bounded number of entries, of bounded size.

What is written there is ``monitoring.ledger``'s; serving sees the file and not that module.
"""

from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import quote

import msgspec

from driftwheel.errors import UnavailableError

if TYPE_CHECKING:
    import sqlite3

SCHEMA_VERSION = 1
"""The newest ``PRAGMA user_version`` that is known here."""

LARGEST_PAYLOAD = 1024 * 1024
"""Bytes. The evidence of an entry above it is not read; its summary is."""

_BUSY_TIMEOUT_S = 2.0

_NEWEST = """
SELECT id, at, summary, CASE WHEN length(payload) <= :largest THEN payload END FROM entries
WHERE model = :model AND kind = :kind ORDER BY id DESC LIMIT :limit
"""

Kind = Literal["gate", "verdict", "drift", "retrain", "rollout", "archive"]


class LedgerEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One line. ``at`` is ISO 8601; ``payload`` is JSON, None where it is too large."""

    id: int
    at: str
    summary: str
    payload: str | None


class LedgerReader:
    """Reads a ledger that other processes write; where there is no file yet, it is empty.

    Raises (every method):
        UnavailableError: The file cannot be read, or comes from a newer Driftwheel.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def last_id(self) -> int:
        """The id of the newest entry of all; 0 where there is none."""
        with self._connect() as connection:
            return 0 if connection is None else connection.execute("SELECT max(id) FROM entries").fetchone()[0] or 0

    def newest(self, model: str, kind: Kind, *, limit: int) -> list[LedgerEntry]:
        """The newest entries of a model and kind, newest first, at most ``limit`` of them."""
        with self._connect() as connection:
            if connection is None:
                return []
            values = {"model": model, "kind": kind, "limit": limit, "largest": LARGEST_PAYLOAD}
            rows = connection.execute(_NEWEST, values).fetchall()
        return [LedgerEntry(id=row[0], at=row[1], summary=row[2], payload=row[3]) for row in rows]

    @contextmanager
    def _connect(self) -> "Generator[sqlite3.Connection | None]":
        import sqlite3  # a server whose console nobody opens does without

        if not self._path.exists():
            yield None
            return
        address = f"file:{quote(str(self._path))}?mode=ro"
        try:
            with closing(sqlite3.connect(address, uri=True, timeout=_BUSY_TIMEOUT_S)) as connection:
                (version,) = connection.execute("PRAGMA user_version").fetchone()
                if version == 0:  # just made, and still empty
                    yield None
                    return
                if version > SCHEMA_VERSION:
                    raise UnavailableError(
                        f"the ledger has schema version {version}, this server knows {SCHEMA_VERSION}"
                    )
                yield connection
        except sqlite3.Error as error:
            raise UnavailableError(f"the ledger cannot be read: {error}") from None
