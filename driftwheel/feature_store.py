"""The feature store: its settings, where it lies, and the one place that imports Feast.

What is trained on and what is served read the same repository, ``<home>/features``: offline Parquet files, a registry of
definitions, and (unless Redis is named) an online store in SQLite. Training writes it, serving reads it by name alone.
"""

import os
import tempfile
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from driftwheel.errors import ConfigurationError
from driftwheel.serving_settings import Section

PROJECT = "driftwheel"

CUSTOMER_ID = "customer_id"
"""The join key of customers. All join keys are text, so that 15 and "15" name the same."""

CHURN_SERVICE = "churn"
"""The feature service that the churn endpoint reads."""

RATING_SERVICE = "rating"

_REDIS_TIMEOUT_S = 5

_METRICS_VARIABLES = ("PROMETHEUS_MULTIPROCESS_DIR", "PROMETHEUS_MULTIPROC_DIR")


class FeatureSettings(Section):
    """Features from a store, by id; needs the extra ``features``."""

    serve: bool = False
    """Whether the server answers for customers that a request only names."""
    online_store: Literal["sqlite", "redis"] = "sqlite"
    """What the server reads: a file in the home, or a Redis that many hosts share."""
    redis: str | None = Field(default=None, pattern=r"^[^\s,]+:\d+(,.*)?$", repr=False)
    """HOST:PORT of Redis, with its parameters behind commas: ``redis:6379,ssl=true,password=...``. A password in it is never
    shown; give it by the environment or the TOML file."""
    registry: str | None = Field(default=None, pattern=r"^(s3|gs)://[^/]+/.+$")
    """An object, ``s3://bucket/registry.db``, that holds the definitions for servers with homes of their own; unset, a file in
    the home. Its keys and its endpoint come from where the provider's tools look."""
    max_age_s: float = Field(default=7 * 86400.0, ge=1)
    """A customer's features that are older are stale; training sets treat them as absent. `features apply` puts it in force."""
    keep_days: float | None = Field(default=None, gt=0)
    """Snapshots of customers that training sets of the last so many days have no use for are deleted by `features build`;
    unset, never: training sets of any past see it."""
    keep_mib: int | None = Field(default=None, ge=1)
    """Of larger snapshots the oldest are deleted, but none that is younger than `max_age_s`; unset, they grow."""
    stale: Literal["missing", "use", "refuse"] = "missing"
    """What the server does with stale features: takes them for missing as training does, uses them, or answers 503."""
    unknown: Literal["refuse", "missing"] = "refuse"
    """What the server does for a customer without features: answers 404, or takes all of them for missing."""
    timeout_ms: float = Field(default=1000.0, gt=0)
    """How long the store may take for one request; past it the answer is UNAVAILABLE / 503."""
    max_customers: int = Field(default=1000, ge=1)
    """The most customers that one request may only name."""

    @model_validator(mode="after")
    def _fit_together(self) -> "FeatureSettings":
        if (self.online_store == "redis") != (self.redis is not None):
            raise ValueError("online_store = 'redis' and redis = 'HOST:PORT' go together: one is set, the other is not")
        return self


def repository(settings: FeatureSettings, folder: Path) -> dict[str, Any]:
    """What Feast's ``RepoConfig`` is made of, for training and serving alike."""
    sqlite = {"type": "sqlite", "path": str(online_path(folder))}
    redis = {"type": "redis", "connection_string": _with_timeouts(settings.redis or "")}
    return {
        "project": PROJECT,
        "provider": "local",
        # 0: what has been read of the registry holds until it is asked to be read again.
        "registry": {"path": settings.registry or str(registry_path(folder)), "cache_ttl_seconds": 0},
        "offline_store": {"type": "dask"},
        "online_store": redis if settings.online_store == "redis" else sqlite,
        "entity_key_serialization_version": 3,
        # Without it, every row of a key would be written to the online store, one over the other.
        "materialization": {"pull_latest_features": True, "online_write_batch_size": 10_000},
        "repo_path": folder,
    }


def _with_timeouts(connection: str) -> str:
    """Without one, a question to a host that is gone would hold its thread for ever."""
    given = {part.partition("=")[0] for part in connection.split(",")}
    wanted = [
        f"{name}={_REDIS_TIMEOUT_S}" for name in ("socket_timeout", "socket_connect_timeout") if name not in given
    ]
    return ",".join([connection, *wanted])


def registry_path(folder: Path) -> Path:
    """Where the definitions lie, unless they are an object of a store."""
    return folder / "registry.db"


def online_path(folder: Path) -> Path:
    """Where the online store lies, unless it is a Redis."""
    return folder / "online.sqlite"


def may_be_registered(settings: FeatureSettings, folder: Path) -> bool:
    """Whether there can be definitions: False where their file is absent. What a store has is only seen when it is asked."""
    return settings.registry is not None or registry_path(folder).exists()


def check_feast(settings: FeatureSettings) -> None:
    """Refuse to work with features where what it takes is not installed.

    Raises:
        ConfigurationError: It is not.
    """
    for package in ("feast", "redis") if settings.online_store == "redis" else ("feast",):
        if find_spec(package) is None:
            raise ConfigurationError(
                f"features need {package}, which is not installed", hint="pip install 'driftwheel[features]'"
            )


def import_feast() -> Any:
    """Feast, imported so that the metrics of this process, and of those that it starts, stay as they are. Takes seconds.

    Feast turns prometheus_client to a mode of many processes, by environment variables that count when that is first imported:
    so it is imported before, and the variables are put back. Where they name no folder, Feast makes one, and a process that is
    ended leaves it: so they name one, which nobody writes to.
    """
    import_module("prometheus_client")
    before = {name: os.environ.get(name) for name in _METRICS_VARIABLES}
    os.environ.update(dict.fromkeys(_METRICS_VARIABLES, tempfile.gettempdir()))
    try:
        return import_module("feast")
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def open_store(settings: FeatureSettings, folder: Path) -> Any:
    """Feast's ``FeatureStore`` of a home.

    Raises:
        ConfigurationError: Feast is not installed.
    """
    check_feast(settings)
    feast = import_feast()
    return feast.FeatureStore(config=feast.RepoConfig(**repository(settings, folder)))
