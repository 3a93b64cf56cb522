"""Where MLflow keeps its things: the one place that turns settings into an MLflow client."""

import logging
import os
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from driftwheel.files import waiting_lock
from driftwheel.settings import Settings

if TYPE_CHECKING:
    from mlflow import MlflowClient

_QUIET = ("mlflow", "alembic")


def tracking_uri(settings: Settings) -> str:
    """The tracking server or database: SQLite in the home unless the settings name another."""
    return settings.tracking.uri or f"sqlite:///{settings.home / 'mlflow' / 'mlflow.db'}"


def artifact_location(settings: Settings) -> str | None:
    """Where a new experiment keeps its artifacts; None leaves it to a tracking server."""
    if settings.tracking.artifacts or settings.tracking.uri:
        return settings.tracking.artifacts
    return (settings.home / "mlflow" / "artifacts").as_uri()


@contextmanager
def quiet() -> Generator[None]:
    """Keep MLflow's and Alembic's notes for themselves; warnings about our own use still come as errors in tests."""
    before = {name: logging.getLogger(name).level for name in _QUIET}
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)


def open_client(settings: Settings) -> "MlflowClient":
    """A client of the tracking store and of the registry, which lie in one place.

    The first use of a database makes its tables; a lock lets one process do that.
    """
    mlflow_client = _import_client()
    (settings.home / "mlflow").mkdir(parents=True, exist_ok=True)
    with quiet(), waiting_lock(settings.home / "mlflow" / "open.lock"):
        client = mlflow_client(tracking_uri(settings), registry_uri=tracking_uri(settings))
        client.search_experiments(max_results=1)
    return client


def _import_client() -> "type[MlflowClient]":
    """Import MLflow without its calls home and its progress bars; it takes both from the environment alone."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    from mlflow import MlflowClient

    return MlflowClient


def experiment_id(client: "MlflowClient", settings: Settings) -> str:
    """The id of the settings' experiment, made if it is not there."""
    from mlflow.exceptions import MlflowException

    name = settings.tracking.experiment
    if (found := client.get_experiment_by_name(name)) is not None:
        return found.experiment_id
    try:
        return client.create_experiment(name, artifact_location=artifact_location(settings))
    except MlflowException:  # another process was faster
        if (found := client.get_experiment_by_name(name)) is None:
            raise
        return found.experiment_id
