"""Customers that a request only names: their features from the store, with what is unknown or stale counted and dealt with.

The store is asked on a thread of its own, for a bounded time. A server without ``features.serve`` has none of this.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import structlog

from driftwheel.errors import (
    ConfigurationError,
    DeadlineExceededError,
    InvalidRequestError,
    NotFoundError,
    TooLargeError,
    UnavailableError,
)
from driftwheel.feature_store import FeatureSettings, check_feast, may_be_registered
from driftwheel.settings import Settings
from monitoring.metrics import ServingMetrics
from serving.codec import Columns, from_list
from serving.engine import LoadedVersion

if TYPE_CHECKING:
    from serving.feature_adapter import FeastAdapter, Read

_log = structlog.get_logger()

Freshness = Literal["fresh", "stale", "unknown"]

_SQLITE_THREADS = 1
"""Feast shares one connection, on which one question is answered at a time."""

_REDIS_THREADS = 4


def check_features(settings: Settings) -> None:
    """Refuse to serve features that are not there, before anything is started.

    Raises:
        ConfigurationError: Feast is not installed, or no features have been registered.
    """
    if not settings.features.serve:
        return
    check_feast(settings.features)
    if not may_be_registered(settings.features, settings.features_folder):
        raise ConfigurationError(
            f"features.serve is set, and no features have been registered in {settings.features_folder}",
            hint="driftwheel features build, then driftwheel features materialize",
        )


@dataclass(frozen=True, slots=True)
class Fetched:
    """What the store had for the customers of one request, in their order, stale and unknown ones dealt with."""

    columns: dict[str, list[Any]]
    """Each feature's values ``[rows]``, None where missing."""
    freshness: list[Freshness]

    def decode(self, loaded: LoadedVersion) -> tuple[Columns, int]:
        """The inputs of a version, as if the request had brought them.

        Raises:
            TooLargeError: The version does not take so many rows.
            UnavailableError: The store has not all that the version takes, or has it of another type.
        """
        rows, signature = len(self.freshness), loaded.signature
        if rows > (limit := loaded.limits.max_rows_per_request):
            raise TooLargeError(f"customer_ids names {rows} customers; one request may have at most {limit}")
        if absent := [spec.name for spec in signature.inputs if spec.name not in self.columns]:
            raise UnavailableError(
                f"the feature store has no {absent[0]!r}, which version {loaded.version} of {loaded.name!r} takes: "
                "build the features from the table that it was trained on, and start the server again"
            )
        try:
            return {spec.name: from_list(spec, rows, self.columns[spec.name]) for spec in signature.inputs}, rows
        except InvalidRequestError as error:  # what the store has is no fault of the request
            raise UnavailableError(f"the feature store does not fit the model: {error.message}") from None


class OnlineFeatures:
    """The store, as requests see it. Lives on one event loop.

    Args:
        folder: The feature repository.
        now_s: The time, in seconds since the epoch.
    """

    def __init__(
        self,
        settings: FeatureSettings,
        folder: Path,
        metrics: ServingMetrics,
        *,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._folder = folder
        self._metrics = metrics
        self._now_s = now_s
        threads = _REDIS_THREADS if settings.online_store == "redis" else _SQLITE_THREADS
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="features")
        self._adapter: FeastAdapter | None = None

    @property
    def max_customers(self) -> int:
        """The most customers that one request may only name."""
        return self._settings.max_customers

    async def open(self) -> None:
        """Load Feast and read a first time, which takes seconds.

        Raises:
            ConfigurationError: Feast is not installed, or no features have been registered.
        """
        began = time.monotonic()
        self._adapter = adapter = await asyncio.get_running_loop().run_in_executor(self._executor, self._opened)
        _log.info("features.opened", features=len(adapter.names), took_s=round(time.monotonic() - began, 1))

    def close(self) -> None:
        """Ask nothing more."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    async def fetch(self, ids: Sequence[int | str], deadline: float | None) -> Fetched:
        """The features of customers.

        Args:
            deadline: When the caller stops waiting, by ``time.monotonic``.

        Raises:
            InvalidRequestError: No customer is named.
            TooLargeError: Too many are.
            NotFoundError: The store does not know one, and that is to be refused.
            UnavailableError: The store fails or takes too long, or what it has is stale, and that is to be refused.
            DeadlineExceededError: The caller's deadline passed first.
        """
        if not ids:
            raise InvalidRequestError("customer_ids must name at least one customer where customers is absent")
        if len(ids) > self._settings.max_customers:
            raise TooLargeError(
                f"customer_ids names {len(ids)} customers; without features it may name at most {self._settings.max_customers}"
            )
        names = [str(one) for one in ids]
        began = time.monotonic()
        read = await self._read(names, deadline)
        self._metrics.feature_fetch.labels().observe_many([time.monotonic() - began])
        return self._judged(names, read)

    def _opened(self) -> "FeastAdapter":
        from serving.feature_adapter import FeastAdapter

        adapter = FeastAdapter(self._settings, self._folder)
        try:
            adapter.read(["warm-up"])  # connects, and loads what Feast loads with the first question
        except Exception:  # noqa: BLE001 (as in _read; requests that bring their features want nothing of the store)
            _log.warning("features.not_answering", exc_info=True)
        return adapter

    async def _read(self, names: list[str], deadline: float | None) -> "Read":
        if self._adapter is None:
            raise UnavailableError("the feature store is being opened")
        allowed_s, callers = self._settings.timeout_ms / 1000, False
        if deadline is not None and (left_s := deadline - time.monotonic()) < allowed_s:
            allowed_s, callers = left_s, True
        asked = asyncio.get_running_loop().run_in_executor(self._executor, self._adapter.read, names)
        try:
            return await asyncio.wait_for(asked, allowed_s)
        except TimeoutError:
            if callers:
                raise DeadlineExceededError("the deadline passed before the feature store answered") from None
            self._metrics.feature_failures.labels("timeout").inc()
            raise UnavailableError(f"the feature store took longer than {self._settings.timeout_ms:g} ms") from None
        except Exception as error:  # every store raises its client's own errors, without a common base
            self._metrics.feature_failures.labels("error").inc()
            _log.exception("features.failed")
            raise UnavailableError("the feature store failed; the server's log says why") from error

    def _judged(self, names: list[str], read: "Read") -> Fetched:
        freshness: list[Freshness] = [
            _freshness(at_s, self._now_s(), self._settings.max_age_s) for at_s in read.known_at_s
        ]
        self._metrics.feature_age.labels().observe_many(
            [max(self._now_s() - at_s, 0.0) for at_s in read.known_at_s if at_s]
        )
        for state in set(freshness):
            self._metrics.feature_customers.labels(state).inc(freshness.count(state))
        for name, values in read.columns.items():
            lacking = sum(value is None for value, state in zip(values, freshness, strict=True) if state != "unknown")
            if lacking:
                self._metrics.feature_missing.labels(name).inc(lacking)
        if self._settings.unknown == "refuse" and "unknown" in freshness:
            raise NotFoundError(f"the feature store does not know customer {names[freshness.index('unknown')][:80]!r}")
        if "stale" not in freshness or self._settings.stale == "use":
            return Fetched(read.columns, freshness)
        if self._settings.stale == "refuse":
            row = freshness.index("stale")
            raise UnavailableError(
                f"the features of customer {names[row][:80]!r} are {self._now_s() - read.known_at_s[row]:.0f} s old, "
                f"more than {self._settings.max_age_s:g}"
            )
        columns = {
            name: [None if state == "stale" else value for value, state in zip(values, freshness, strict=True)]
            for name, values in read.columns.items()
        }
        return Fetched(columns, freshness)


def _freshness(known_at_s: int, now_s: float, max_age_s: float) -> Freshness:
    if not known_at_s:
        return "unknown"
    return "stale" if now_s - known_at_s > max_age_s else "fresh"
