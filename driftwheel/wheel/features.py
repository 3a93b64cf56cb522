"""The feature repository of a home: built from its tables and its prediction log, brought online, joined to training sets."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import structlog

from driftwheel.contracts import Task
from driftwheel.errors import DataError
from driftwheel.feature_store import CUSTOMER_ID, check_feast
from driftwheel.files import exclusive_lock
from driftwheel.settings import Settings
from driftwheel.wheel.sources import Sources
from training.data.sources import read_customers, read_ratings

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

    import pandas as pd

    from training.features.store import FeatureRepository


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """How many rows of features there are now."""

    customers: int
    """In the newest snapshot."""
    users: int
    items: int
    learned: int
    """Ratings of the prediction log that users' and items' rows count."""
    expired: int
    """Snapshots of customers that were deleted, by ``features.keep_days`` and ``keep_mib``."""


_log = structlog.get_logger()


def build(settings: Settings, sources: Sources, *, at: datetime, now: datetime | None = None) -> Built:
    """Write the offline files, register what they hold, and delete snapshots that need not be kept any longer.

    Args:
        at: When the customers were as their table has them.
        now: The present, by which snapshots are old; None asks the clock.

    Raises:
        DataError: A table cannot be used.
        ConfigurationError: Feast is not installed.
        BusyError: Another process works on the repository.
    """
    from training.features.offline import write_snapshot
    from training.features.tables import customer_rows

    check_feast(settings.features)
    customers = customer_rows(read_customers(_with_ids(sources)), at)
    with _locked(settings):
        write_snapshot(settings.features_folder, customers, at)
        users, items, learned = _write_aggregates(settings, sources)
        _repository(settings).apply()
        expired = _expire(settings, now or moment(None))
    return Built(customers=len(customers), users=len(users), items=len(items), learned=learned, expired=expired)


def _expire(settings: Settings, now: datetime) -> int:
    """Delete snapshots; what could not be deleted is said, and left to the next build."""
    from training.features.retention import expire

    expired = expire(settings.features_folder, settings.features, now=now)
    if expired.snapshots:
        _log.info("features.expired", snapshots=expired.snapshots, bytes=expired.bytes)
    if expired.excess_bytes:
        _log.warning(
            "features.over_their_limit", excess_bytes=expired.excess_bytes, why="the rest is fresh, or the newest"
        )
    if expired.postponed:
        _log.warning("features.expire_postponed", why="somebody reads the snapshots; the next build deletes")
    return expired.snapshots


def apply(settings: Settings) -> None:
    """Register again what the offline files hold, with the settings of now.

    Raises:
        DataError: There are none.
    """
    check_feast(settings.features)
    with _locked(settings):
        _repository(settings).apply()


def materialize(settings: Settings, *, until: datetime) -> None:
    """Bring the newest row of each key that was known by then online.

    Raises:
        DataError: Nothing has been built.
    """
    check_feast(settings.features)
    with _locked(settings):
        _repository(settings).materialize(until)


def push(settings: Settings, sources: Sources) -> dict[str, int]:
    """Count the prediction log's labels into users' and items' features, and bring those that they changed online.

    Returns:
        How many keys of each view were brought online, and how many labels were counted (``learned``).

    Raises:
        DataError: Nothing has been built.
    """
    from training.features.offline import ITEMS, USERS

    check_feast(settings.features)
    labelled = _labelled(settings, sources)
    with _locked(settings):
        repository = _repository(settings)
        users, items, learned = _write_aggregates(settings, sources)
        pushed = {}
        for view, rows, key in ((USERS, users, "user_id"), (ITEMS, items, "item_id")):
            changed = rows[rows[key].isin(labelled[key].astype(str))].drop_duplicates(key, keep="last")
            repository.push(view, changed)
            pushed[view] = len(changed)
    return {**pushed, "learned": learned}


def get(settings: Settings, view: str, ids: "Sequence[str]") -> list[dict[str, Any]]:
    """What the server would see, by id.

    Raises:
        DataError: Nothing has been built.
    """
    check_feast(settings.features)
    return _repository(settings).online(view, ids)


def training_set(settings: Settings, sources: Sources, task: Task) -> "pd.DataFrame":
    """What a task's rows were known by at their time, with the label.

    For churn: the customers of the newest snapshot, as ``driftwheel train churn --customers`` reads them. For ratings: each
    with what was known of its user and its item just before.

    Raises:
        DataError: Nothing has been built.
    """
    from training.features.offline import reading

    check_feast(settings.features)
    repository = _repository(settings)
    with reading(settings.features_folder):
        return _rating_set(repository, sources) if task == "rating" else _customer_set(settings, repository)


def _customer_set(settings: Settings, repository: "FeatureRepository") -> "pd.DataFrame":
    import pandas as pd

    from training.data.customer_table import LABEL
    from training.data.sources import CustomersSource
    from training.features.offline import CUSTOMERS, newest_snapshot
    from training.features.tables import KNOWN_AT

    snapshot = pd.read_parquet(newest_snapshot(settings.features_folder), columns=[CUSTOMER_ID, LABEL, KNOWN_AT])
    rows = repository.as_known(snapshot, [CUSTOMERS])
    defaults = CustomersSource()
    words = rows[LABEL].map({1.0: defaults.positive_label, 0.0: "No"})
    return rows.drop(columns=[LABEL, KNOWN_AT]).assign(**{defaults.label_column: words})


def _rating_set(repository: "FeatureRepository", sources: Sources) -> "pd.DataFrame":
    import pandas as pd

    from training.features.offline import ITEMS, USERS
    from training.features.tables import KNOWN_AT

    ratings = _timed_ratings(sources)[["user_id", "item_id", "rating", "at"]]
    moments = pd.to_datetime(ratings["at"], unit="s", utc=True).dt.as_unit("us")
    return repository.as_known(ratings.assign(**{KNOWN_AT: moments}), [USERS, ITEMS]).drop(columns=KNOWN_AT)


def _write_aggregates(settings: Settings, sources: Sources) -> "tuple[pd.DataFrame, pd.DataFrame, int]":
    import pandas as pd

    from training.features.offline import ITEMS, USERS, write_history
    from training.features.tables import aggregate_rows

    ratings, labelled = _timed_ratings(sources), _labelled(settings, sources)
    columns = ["user_id", "item_id", "rating", "at"]
    if len(labelled):
        labelled = labelled[columns].astype({key: ratings[key].dtype for key in ("user_id", "item_id")})
        ratings = pd.concat([ratings[columns], labelled], ignore_index=True)
    users = aggregate_rows(ratings, "user_id", "item_id", "user_")
    items = aggregate_rows(ratings, "item_id", "user_id", "item_")
    write_history(settings.features_folder, USERS, users)
    write_history(settings.features_folder, ITEMS, items)
    return users, items, len(labelled)


def _timed_ratings(sources: Sources) -> "pd.DataFrame":
    if not sources.ratings.has_time:
        raise DataError("features of users and items need to know when they rated", hint="name it with --time-column")
    return read_ratings(sources.ratings)


def _labelled(settings: Settings, sources: Sources) -> "pd.DataFrame":
    from monitoring.windows import labelled_examples

    rows = labelled_examples(settings.prediction_log, sources.rating_model, task="rating")
    return rows if len(rows) else rows.reindex(columns=["user_id", "item_id", "rating", "at"])


def _with_ids(sources: Sources) -> Any:
    if sources.customers.path is not None and sources.customers.id_column is None:
        raise DataError("features are looked up by the customer's id", hint="name its column with --id-column")
    return sources.customers


def _repository(settings: Settings) -> "FeatureRepository":
    from training.features.store import FeatureRepository

    return FeatureRepository(settings.features, settings.features_folder)


def _locked(settings: Settings) -> "AbstractContextManager[None]":
    return exclusive_lock(settings.features_folder / "lock", purpose="work on the feature repository")


def moment(text: str | None) -> datetime:
    """A moment in UTC, to the second; None is now.

    Args:
        text: ISO 8601, which ``check_moment`` has seen; without an offset it is UTC.
    """
    parsed = datetime.now(UTC) if text is None else datetime.fromisoformat(text)
    return (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).astimezone(UTC).replace(microsecond=0)
