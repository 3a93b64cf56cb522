"""The ledger: what the wheel decided, when and on what evidence. Entries are added, never changed."""

import sqlite3
from collections.abc import Generator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec

from driftwheel.errors import DataError
from driftwheel.files import waiting_lock

EntryKind = Literal["gate", "verdict", "drift", "retrain", "rollout", "archive"]

SCHEMA_VERSION = 1
BUSY_TIMEOUT_S = 30.0

_SCHEMA = """
CREATE TABLE entries (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    at TEXT NOT NULL,
    kind TEXT NOT NULL,
    model TEXT NOT NULL,
    summary TEXT NOT NULL,
    payload TEXT NOT NULL
) STRICT;
CREATE INDEX entries_by_model ON entries (model, kind, id);
CREATE TRIGGER entries_are_never_changed BEFORE UPDATE ON entries
    BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER entries_are_never_deleted BEFORE DELETE ON entries
    BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
"""

_SELECT = """
SELECT id, at, kind, model, summary, payload FROM entries
WHERE (:model IS NULL OR model = :model) AND (:kind IS NULL OR kind = :kind) AND id > :after
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One line of the ledger. ``id`` rises with every entry; ``at`` is ISO 8601."""

    id: int
    at: str
    kind: EntryKind
    model: str
    summary: str
    payload: dict[str, Any]


class Ledger:
    """An append-only SQLite file that several processes may use at once.

    An ``append`` that has returned survives ``kill -9`` and a power cut (write-ahead log, synchronous FULL). Every call
    opens a connection of its own, so an object may be shared by threads and survive a fork.

    Args:
        path: The file; it and its folder are made when they are not there.

    Raises:
        DataError: The file is not a ledger, is damaged, or comes from a newer Driftwheel.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        # Two processes that switch a new file to WAL at once would see "database is locked" in spite of the timeout.
        with waiting_lock(path.with_name(f"{path.name}.lock")), self._connect() as connection:
            self._prepare(connection)

    def append(
        self, kind: EntryKind, model: str, *, at: str, summary: str, payload: Mapping[str, Any] | None = None
    ) -> int:
        """Add an entry and return its id once it is on disk.

        Args:
            at: The time of the event, ISO 8601.
            summary: One sentence for people.
            payload: The whole evidence: JSON-like values, dataclasses, NumPy scalars and arrays. NaN becomes null.
        """
        text = msgspec.json.encode(payload or {}, enc_hook=_plain).decode()
        with self._connect() as connection, connection:
            cursor = connection.execute(
                "INSERT INTO entries (at, kind, model, summary, payload) VALUES (?, ?, ?, ?, ?)",
                (at, kind, model, summary, text),
            )
        return int(cursor.lastrowid or 0)

    def entries(
        self, model: str | None = None, kind: EntryKind | None = None, *, limit: int | None = None, after: int = 0
    ) -> list[Entry]:
        """Entries with an id above ``after``, oldest first, at most ``limit`` of them."""
        found = self._select("ORDER BY id LIMIT :limit", model=model, kind=kind, limit=limit, after=after)
        return [_entry(row) for row in found]

    def latest(self, model: str | None = None, kind: EntryKind | None = None, *, limit: int = 1) -> list[Entry]:
        """The newest entries, newest first, at most ``limit`` of them."""
        found = self._select("ORDER BY id DESC LIMIT :limit", model=model, kind=kind, limit=limit, after=0)
        return [_entry(row) for row in found]

    def _select(self, order: str, *, limit: int | None, **values: Any) -> list[tuple[Any, ...]]:
        with self._connect() as connection:
            bound = {**values, "limit": -1 if limit is None else limit}
            return connection.execute(f"{_SELECT} {order}", bound).fetchall()

    def _prepare(self, connection: sqlite3.Connection) -> None:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version > SCHEMA_VERSION:
            raise DataError(
                f"ledger {self.path} has schema version {version}, this Driftwheel knows {SCHEMA_VERSION}",
                hint="upgrade Driftwheel, or name another ledger",
            )
        if version == SCHEMA_VERSION:
            return
        connection.execute("PRAGMA journal_mode = WAL")
        connection.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")

    @contextmanager
    def _connect(self) -> Generator[sqlite3.Connection]:
        try:
            with closing(sqlite3.connect(self.path, timeout=BUSY_TIMEOUT_S)) as connection:
                connection.execute("PRAGMA synchronous = FULL")
                yield connection
        except sqlite3.DatabaseError as error:
            raise DataError(f"ledger {self.path} cannot be used: {error}") from error


def _entry(row: tuple[Any, ...]) -> Entry:
    number, at, kind, model, summary, payload = row
    return Entry(id=number, at=at, kind=kind, model=model, summary=summary, payload=msgspec.json.decode(payload))


def _plain(value: Any) -> Any:
    """NumPy's scalars and arrays as Python's; paths and other odd things as text."""
    tolist = getattr(value, "tolist", None)
    return tolist() if tolist is not None else str(value)
