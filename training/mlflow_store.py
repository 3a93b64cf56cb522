"""Where MLflow keeps its things: the one place that turns settings into an MLflow client."""

import logging
import os
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING

from driftwheel.errors import ConfigurationError, TrainingError
from driftwheel.feature_store import import_feast
from driftwheel.files import replaced, waiting_lock
from driftwheel.settings import Settings

if TYPE_CHECKING:
    from mlflow import MlflowClient

KEY_TAG = "driftwheel.job"
"""The tag by which a run is found again: data, configuration and seed."""
CONTEXT_TAG = "mlflow.data.context"
"""The tag of a run's dataset that says what it was used for."""
WEIGHTS_FOLDER = "weights"
"""The artifact folder of what ``job.read_trained`` reads."""
EVALUATION_FOLDER = "evaluation"
"""The artifact folder of the test split's answers and of the inputs' importance."""

_SERVERS = ("http://", "https://")

_KNOCK_S = 10.0
"""How long a tracking server may take to answer before a run begins."""

_QUIET = {"mlflow": logging.ERROR, "alembic": logging.ERROR, "mlflow.store.db.utils": logging.CRITICAL}
"""The least that libraries' loggers may say; the last one raises whatever it logs."""


def tracking_uri(settings: Settings) -> str:
    """The tracking server or database: SQLite in the home unless the settings name another."""
    return settings.tracking.uri or f"sqlite:///{settings.home / 'mlflow' / 'mlflow.db'}"


def shown_uri(settings: Settings) -> str:
    """The tracking server or database without user and password."""
    scheme, separator, rest = tracking_uri(settings).partition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}"


def is_empty(settings: Settings) -> bool:
    """Whether nothing can be on record: there is no tracking server, and the home's database was never made."""
    return settings.tracking.uri is None and not (settings.home / "mlflow" / "mlflow.db").exists()


def artifact_location(settings: Settings) -> str | None:
    """Where a new experiment keeps its artifacts; None leaves it to a tracking server."""
    if settings.tracking.artifacts or settings.tracking.uri:
        return settings.tracking.artifacts
    return (settings.home / "mlflow" / "artifacts").as_uri()


@contextmanager
def quiet() -> Generator[None]:
    """Keep MLflow's notes and its libraries' warnings about each other off the terminal. What warns about our own use
    of it still shows.
    """
    before = {name: logging.getLogger(name).level for name in _QUIET}
    for name, level in _QUIET.items():
        logging.getLogger(name).setLevel(level)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="mlflow|sqlalchemy|alembic")
            yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)


def open_client(settings: Settings) -> "MlflowClient":
    """A client of the tracking store and of the registry, which lie in one place.

    The first use of a database makes its tables; a lock lets one process do that, and ours in the home appears whole:
    one that was cut off half-way cannot be used again.

    Raises:
        ConfigurationError: The server or database that the settings name does not answer.
    """
    database = settings.home / "mlflow" / "mlflow.db"
    check_reachable(settings)
    if settings.tracking.s3_endpoint is not None:
        os.environ["MLFLOW_S3_ENDPOINT_URL"] = settings.tracking.s3_endpoint  # MLflow takes it from there alone
    if tracking_uri(settings).startswith(_SERVERS) and find_spec("feast") is not None:
        # Asking a server, MLflow loads the plugins of all that is installed. Feast is one, and would turn the metrics of this
        # process, and of those that it starts, to another mode.
        import_feast()
    with _imported() as mlflow_client, waiting_lock(database.with_name("open.lock")):
        if settings.tracking.uri is None and not database.exists():
            with replaced(database) as temporary:
                mlflow_client(f"sqlite:///{temporary}").search_experiments(max_results=1)
        client = mlflow_client(tracking_uri(settings), registry_uri=tracking_uri(settings))
        client.search_experiments(max_results=1)
    return client


def check_reachable(settings: Settings) -> None:
    """Ask the tracking server or database that the settings name for a sign of life. MLflow itself tries for minutes, which
    is right in the middle of a run, and too long before one.

    Raises:
        ConfigurationError: There is none.
    """
    uri = settings.tracking.uri
    if uri is None:
        return
    try:
        _knock(uri)
    except OSError as error:
        raise ConfigurationError(
            f"tracking.uri: expected an MLflow server or a database at {shown_uri(settings)}, got {error}",
            hint="is it up, and can this machine reach it?",
        ) from None


def _knock(uri: str) -> None:
    """Raises:
    OSError: Nobody is there; whatever else is wrong, MLflow says best.
    """
    if uri.startswith(_SERVERS):
        import requests

        try:
            requests.head(uri, timeout=_KNOCK_S)
        except requests.exceptions.SSLError:
            return  # somebody is there; which certificates are right is for MLflow to know
        except requests.exceptions.RequestException as error:
            raise OSError("no answer") from error
    elif "://" in uri and not uri.startswith("sqlite:"):
        from sqlalchemy import create_engine
        from sqlalchemy.exc import SQLAlchemyError
        from sqlalchemy.pool import NullPool

        try:
            create_engine(uri, poolclass=NullPool).connect().close()
        except SQLAlchemyError as error:
            raise OSError(str(error.__cause__ or error).splitlines()[0]) from error


@contextmanager
def _imported() -> "Generator[type[MlflowClient]]":
    """Import MLflow without its calls home and its progress bars (it takes both from the environment alone), and keep
    it quiet. It sets its loggers up as it is imported, so their levels are lowered after that.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    with quiet():
        from mlflow import MlflowClient

        with quiet():
            yield MlflowClient


def use_globally(settings: Settings) -> None:
    """Point the calls of MLflow that take no client at the settings' store."""
    import mlflow

    mlflow.set_tracking_uri(tracking_uri(settings))
    mlflow.set_registry_uri(tracking_uri(settings))


def logged_model_id(client: "MlflowClient", run_id: str) -> str:
    """The id under which a finished run logged its model.

    Raises:
        TrainingError: It logged none.
    """
    outputs = client.get_run(run_id).outputs
    if outputs is None or not outputs.model_outputs:
        raise TrainingError(f"MLflow run {run_id} has no model", hint="train again")
    return outputs.model_outputs[-1].model_id


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
