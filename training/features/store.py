"""What is done with the feature repository: definitions registered, features brought online, training sets joined."""

import sqlite3
import warnings
from collections.abc import Generator, Sequence
from contextlib import closing, contextmanager, redirect_stdout
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path
from typing import Any

import pandas as pd

from driftwheel.errors import DataError
from driftwheel.feature_store import FeatureSettings, import_feast, may_be_registered, online_path, open_store
from training.features.definitions import KEYS, PUSHED, definitions, feature_names
from training.features.offline import view_schema
from training.features.tables import KNOWN_AT

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_CHUNK_ROWS = 10_000
"""Rows that are joined at a time: Feast pairs each with all of its key's history before it chooses."""


class FeatureRepository:
    """The repository of one home. Not for several processes at a time: the caller holds the lock."""

    def __init__(self, settings: FeatureSettings, folder: Path) -> None:
        self._settings = settings
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        with _quiet():
            self._store = open_store(settings, folder)

    def apply(self) -> None:
        """Register what the offline files hold.

        Raises:
            DataError: A view has no files.
        """
        with _quiet():
            self._store.apply(definitions(import_feast(), self._folder, self._settings.max_age_s))
        if self._settings.online_store == "sqlite":
            # Readers see what was there before until a write is done; else they would wait for it. The file remembers.
            with closing(sqlite3.connect(online_path(self._folder))) as online:
                online.execute("PRAGMA journal_mode = WAL")

    def materialize(self, until: datetime) -> None:
        """Bring the newest row of each key that was known by then online.

        Raises:
            DataError: Nothing has been registered.
        """
        self._require_applied()
        with _quiet():
            self._store.materialize(_EPOCH, until)

    def push(self, view: str, rows: pd.DataFrame) -> None:
        """Bring rows, one a key, online at once.

        Raises:
            DataError: Nothing has been registered.
        """
        self._require_applied()
        if len(rows):
            with _quiet():
                self._store.push(PUSHED[view], rows)

    def online(self, view: str, ids: Sequence[str]) -> list[dict[str, Any]]:
        """What the online store has for each id: every feature (None where missing) and ``known_at``, None for an unknown id.

        Raises:
            DataError: Nothing has been registered.
        """
        self._require_applied()
        key = KEYS[view]
        names = feature_names(view_schema(self._folder, view), key)
        with _quiet():
            answer = self._store.get_online_features(
                [f"{view}:{name}" for name in names], [{key: value} for value in ids]
            ).to_dict(include_event_timestamps=True)
        seconds = answer[f"{names[0]}__ts"]
        return [
            {
                key: value,
                "known_at": datetime.fromtimestamp(seconds[row], UTC) if seconds[row] else None,
                **{name: answer[name][row] for name in names},
            }
            for row, value in enumerate(ids)
        ]

    def as_known(self, rows: pd.DataFrame, views: Sequence[str]) -> pd.DataFrame:
        """Rows with the features that were known at their time: point-in-time correct.

        Args:
            rows: The keys of the views, and ``event_timestamp``.

        Returns:
            The rows in their order with the features of each view behind, missing where nothing was known or all was too old.

        Raises:
            DataError: Nothing has been registered.
        """
        self._require_applied()
        with _quiet():
            return pd.concat([rows, *(self._joined(rows, view) for view in views)], axis=1)

    def _joined(self, rows: pd.DataFrame, view: str) -> pd.DataFrame:
        """Features of one view ``[rows]``.

        Feast drops a row all of whose history came later, and one of two equal rows: each view is asked apart for every
        (key, time) once, and what comes back is matched to the rows here.
        """
        key = KEYS[view]
        names = feature_names(view_schema(self._folder, view), key)
        wanted = rows[[key, KNOWN_AT]].astype({key: str})
        asked = wanted.drop_duplicates()
        references = [f"{view}:{name}" for name in names]
        parts = [
            self._store.get_historical_features(asked.iloc[start : start + _CHUNK_ROWS], references).to_df()
            for start in range(0, len(asked), _CHUNK_ROWS)
        ]
        found = pd.concat(parts, ignore_index=True).astype({KNOWN_AT: wanted[KNOWN_AT].dtype})
        matched = wanted.merge(found, on=[key, KNOWN_AT], how="left", validate="m:1")
        return matched[names].set_index(rows.index)

    def _require_applied(self) -> None:
        # Asked in this order: to look into a registry is to make one.
        if not (may_be_registered(self._settings, self._folder) and self._store.list_feature_views()):
            where = self._settings.registry or self._folder
            raise DataError(f"no features have been registered in {where}", hint="driftwheel features build")


@contextmanager
def _quiet() -> Generator[None]:
    """Feast prints its progress, which is not the answer of a command, and warns of its libraries' futures."""
    with redirect_stdout(StringIO()), warnings.catch_warnings():
        for kind in (DeprecationWarning, FutureWarning, PendingDeprecationWarning):
            warnings.simplefilter("ignore", kind)
        yield
