"""The one adapter to Feast. Nobody imports it unless ``features.serve`` is set, and Feast is loaded when it opens."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from driftwheel.feature_store import CHURN_SERVICE, CUSTOMER_ID, FeatureSettings, open_store
from serving.without import Without


@dataclass(frozen=True, slots=True)
class Read:
    """What the store has for some customers, in their order."""

    columns: dict[str, list[Any]]
    """Every feature's values ``[rows]``, None where missing."""
    known_at_s: list[int]
    """Since when, in seconds since the epoch ``[rows]``; 0 for a customer that the store does not know."""


class FeastAdapter:
    """An open store. Blocks: made, and called, on one thread beside the event loop.

    What the registry defines is read once, here: looking it up for each request costs more than the features do.

    Raises:
        ConfigurationError: Feast is not installed.
    """

    def __init__(self, settings: FeatureSettings, folder: Path) -> None:
        _have_pandas_found()
        self._store = open_store(settings, folder)
        self._service = self._store.get_feature_service(CHURN_SERVICE)
        projections = self._service.feature_view_projections
        self.names: list[str] = [feature.name for projection in projections for feature in projection.features]
        """What the store has of a customer."""

    def read(self, ids: Sequence[str]) -> Read:
        """Every feature of each customer."""
        answer = self._store.get_online_features(self._service, [{CUSTOMER_ID: one} for one in ids])
        found = answer.to_dict(include_event_timestamps=True)
        return Read({name: found[name] for name in self.names}, found[f"{self.names[0]}__ts"])


def _have_pandas_found() -> None:
    """Feast does not go without pandas, as the server otherwise does."""
    for finder in sys.meta_path:
        if isinstance(finder, Without):
            finder.allow("pandas")
