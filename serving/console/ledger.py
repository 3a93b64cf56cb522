"""The ledger as the console reads it: only to read, a bounded number of entries, of bounded size.

What is written there is ``monitoring.ledger``'s; serving sees the file and not that module.
"""

from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar
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

_NEWEST_VERDICT = """
SELECT id, at, summary, payload FROM entries WHERE model = :model AND kind = 'verdict' AND at >= substr(:started_at, 1, 10)
AND length(payload) <= :largest AND json_extract(payload, '$.rollout.candidate') = :version
AND json_extract(payload, '$.rollout.started_at') = :started_at AND id < coalesce((
    SELECT min(id) FROM entries WHERE model = :model AND kind = 'rollout' AND at >= substr(:started_at, 1, 10)
    AND json_extract(payload, '$.started_at') = :started_at AND json_extract(payload, '$.candidate') <> :version
    AND :version NOT IN (SELECT value FROM json_each(payload, '$.rivals'))
), :above_all) ORDER BY id DESC LIMIT 1
"""
"""Of a version that was dropped, what came before that: a trial may be judged thousands of times after it."""

_ABOVE_ALL = 2**63 - 1

_Payload = TypeVar("_Payload")

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

    def newest_verdict(self, model: str, version: int, *, started_at: str) -> LedgerEntry | None:
        """The newest verdict on a version in the trial that began then; None where there is none that can be read."""
        with self._connect() as connection:
            if connection is None:
                return None
            values = {"model": model, "version": version, "started_at": started_at}
            values |= {"largest": LARGEST_PAYLOAD, "above_all": _ABOVE_ALL}
            row = connection.execute(_NEWEST_VERDICT, values).fetchone()
        return row and LedgerEntry(id=row[0], at=row[1], summary=row[2], payload=row[3])

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


def decoded(entry: LedgerEntry, kind: type[_Payload]) -> _Payload | None:
    """An entry's evidence; None where it is too large, or another release wrote it in a form of its own."""
    if entry.payload is None:
        return None
    try:
        return msgspec.json.decode(entry.payload, type=kind)
    except msgspec.MsgspecError:
        return None
