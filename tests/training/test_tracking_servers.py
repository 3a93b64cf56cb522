"""The same record on servers, by settings alone: a real MariaDB, a real S3 server, and MLflow's own in front of both."""

import os
import sys
from collections.abc import Generator
from pathlib import Path

import numpy as np
import pytest

from driftwheel.settings import Settings, TrackingSettings
from exporters.export import export
from tests.training.samples import in_this_process, run_both
from tests.training.tracked import track_all
from tests.training.tuning import servers
from training.config import RatingConfig
from training.data.dataset import Dataset, public_tensors, read_split
from training.data.refit import refit_dataset
from training.evaluation import bundle_answers
from training.launch import Trained
from training.mlflow_store import is_empty, quiet, shown_uri, tracking_uri
from training.registry import CHAMPION, Registry
from training.run_record import fetch_file
from training.run_report import FILE

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(600)]

CONFIG = RatingConfig(epochs=3, patience=3, batch_rows=500, factors=4)
KEYS = {"AWS_ACCESS_KEY_ID": "anybody", "AWS_SECRET_ACCESS_KEY": "anything", "AWS_DEFAULT_REGION": "us-east-1"}


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Generator[str]:
    with servers.mariadb(tmp_path_factory.mktemp("mariadb")) as url:
        yield url


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Generator[str]:
    """The endpoint of an S3 with an empty bucket ``artifacts``."""
    import boto3

    port, folder = servers.free_port(), tmp_path_factory.mktemp("s3")
    with servers.running([sys.executable, "-m", "moto.server", "-p", str(port)], port, folder / "log"):
        endpoint = f"http://127.0.0.1:{port}"
        keys = {"aws_access_key_id": "anybody", "aws_secret_access_key": "anything", "region_name": "us-east-1"}
        client = boto3.client("s3", endpoint_url=endpoint, **keys)
        client.create_bucket(Bucket="artifacts")
        client.close()
        yield endpoint


@pytest.fixture(scope="module")
def full(small_ratings: Dataset) -> Dataset:
    return refit_dataset(small_ratings)


@pytest.fixture(scope="module")
def trained(small_ratings: Dataset, full: Dataset, shared_home: Path) -> Trained:
    with in_this_process():
        return run_both(small_ratings, full, shared_home / "jobs", config=CONFIG, ranks=1)


def to_champion(trained: Trained, dataset: Dataset, full: Dataset, settings: Settings) -> None:
    """Track, register, and let MLflow's pyfunc answer as the bundle does; nothing of it lies in the home."""
    with quiet():  # MLflow warns about type hints of its own
        import mlflow.pyfunc

    run_id = track_all(trained, dataset, settings, full=full)
    assert track_all(trained, dataset, settings, full=full) == run_id
    registry = Registry(settings)
    version = registry.register(run_id, "served", full, "on a server")
    registry.set_alias("served", CHAMPION, version)
    assert (registry.champion("served"), registry.info("served", version).description) == (version, "on a server")
    bundle = export(trained.shipped, full, name="served", version=version, run_id=run_id, models=settings.models)
    table = read_split(full, "reference")
    answers = mlflow.pyfunc.load_model("models:/served@champion").predict(table.to_pandas())
    expected = bundle_answers(bundle, public_tensors(full.signature, table))
    np.testing.assert_allclose(answers["score"], expected, atol=1e-5)
    page = fetch_file(settings, run_id, FILE, settings.home)
    assert page is not None
    assert full.fingerprint in page.read_text()
    fetched = registry.trained_model("served", version, settings.home / "fetched")
    assert fetched.metrics == trained.shipped.metrics
    assert {path.name for path in (settings.home / "mlflow").iterdir()} == {"open.lock"}


def test_a_database_and_a_bucket(
    database: str,
    bucket: str,
    trained: Trained,
    small_ratings: Dataset,
    full: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", "")  # and back to what it was before
    tracking = TrackingSettings(
        uri=database, artifacts="s3://artifacts/direct", s3_endpoint=bucket, experiment="direct"
    )
    settings = Settings(home=tmp_path, tracking=tracking)
    assert servers.PASSWORD not in repr(settings)
    assert servers.PASSWORD not in shown_uri(settings)
    assert "tuner" not in shown_uri(settings)
    assert (tracking_uri(settings), is_empty(settings)) == (database, False)
    to_champion(trained, small_ratings, full, settings)


def test_a_tracking_server(
    database: str,
    bucket: str,
    trained: Trained,
    small_ratings: Dataset,
    full: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The client knows the server's address alone: neither the database's password nor the bucket's keys."""
    for name in KEYS:
        monkeypatch.delenv(name, raising=False)
    port = servers.free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", database, "--artifacts-destination", "s3://artifacts/served"]
    environment = {**KEYS, "MLFLOW_S3_ENDPOINT_URL": bucket, "MLFLOW_DISABLE_TELEMETRY": "true"}
    with servers.running(["env", *(f"{k}={v}" for k, v in environment.items()), *command], port, tmp_path / "log"):
        uri = f"http://127.0.0.1:{port}"
        settings = Settings(home=tmp_path / "home", tracking=TrackingSettings(uri=uri, experiment="served"))
        to_champion(trained, small_ratings, full, settings)
    # MLflow loads Feast's plugin where both are installed, and that must not turn this process's metrics to another mode.
    assert [name for name in os.environ if name.startswith("PROMETHEUS_")] == []
