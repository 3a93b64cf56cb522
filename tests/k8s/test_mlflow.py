"""MLflow as the manifest starts it, on a real MariaDB and a real S3: by its name in the cluster, and by no other."""

import os
import signal
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from urllib.parse import urlsplit

import boto3
import httpx
import pytest

from tests.k8s.manifests import containers, named, pod_templates
from tests.training.tuning import servers

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(600)]

BIN = Path(sys.executable).parent


@pytest.fixture
def url(tmp_path: Path) -> Generator[str]:
    """The address of the tracking server; the database and the store stand in for those of the manifest by address alone."""
    (container,) = containers(dict(pod_templates("mlflow"))["Deployment mlflow"])
    (tmp_path / "db").mkdir()
    s3, port = servers.free_port(), servers.free_port()
    with (
        servers.mariadb(tmp_path / "db") as database,
        servers.running([sys.executable, "-m", "moto.server", "-p", str(s3)], s3, tmp_path / "s3.log"),
    ):
        keys = {"aws_access_key_id": "anybody", "aws_secret_access_key": "anything", "region_name": "us-east-1"}
        client = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{s3}", **keys)
        client.create_bucket(Bucket="mlflow")
        client.close()
        place = urlsplit(database)
        secrets = {
            "MYSQL_PASSWORD": place.password or "",
            "AWS_ACCESS_KEY_ID": "anybody",
            "AWS_SECRET_ACCESS_KEY": "anything",
        }
        environment = {"PATH": f"{BIN}:/usr/bin:/bin", "AWS_DEFAULT_REGION": "us-east-1", **secrets}
        for variable in container["env"]:
            if "value" in variable:
                value = variable["value"].replace("$(MYSQL_PASSWORD)", secrets["MYSQL_PASSWORD"])
                value = value.replace("http://minio:9000", f"http://127.0.0.1:{s3}")
                environment[variable["name"]] = value
        given = environment["MLFLOW_BACKEND_STORE_URI"]
        assert given.startswith("mysql+pymysql://mlflow:")
        environment["MLFLOW_BACKEND_STORE_URI"] = database
        words = [*container["command"], *container["args"]]
        words = [word.replace("--port=5000", f"--port={port}") for word in words]
        program, *rest = words
        command = ["env", *(f"{key}={value}" for key, value in environment.items()), str(BIN / program), *rest]
        log = tmp_path / "mlflow.log"
        with log.open("wb") as output:
            process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
        try:
            servers.wait_until_open(port, process, log)
            yield f"http://127.0.0.1:{port}"
        finally:
            os.killpg(process.pid, signal.SIGKILL)  # with its workers; how it ends is MLflow's business
            process.wait()


def test_it_keeps_runs_in_mysql_and_artifacts_in_the_store(url: str) -> None:
    (container,) = containers(dict(pod_templates("mlflow"))["Deployment mlflow"])
    probe = container["readinessProbe"]["httpGet"]
    (host,) = [header["value"] for header in probe["httpHeaders"] if header["name"] == "Host"]
    assert httpx.get(url + probe["path"], headers={"host": host}, timeout=30).text == "OK"
    name = f"{named('mlflow', 'Service', 'mlflow')['metadata']['name']}:5000"
    with httpx.Client(base_url=url, headers={"host": name}, timeout=60) as jobs:
        made = jobs.post("/api/2.0/mlflow/experiments/create", json={"name": "driftwheel"})
        experiment = made.raise_for_status().json()["experiment_id"]
        found = jobs.get("/api/2.0/mlflow/experiments/get", params={"experiment_id": experiment}).json()["experiment"]
        assert found["artifact_location"].startswith("mlflow-artifacts:/")
        jobs.put("/api/2.0/mlflow-artifacts/artifacts/1/note.txt", content=b"kept").raise_for_status()
        assert jobs.get("/api/2.0/mlflow-artifacts/artifacts/1/note.txt").content == b"kept"
    assert (
        httpx.get(f"{url}/api/2.0/mlflow/experiments/get", headers={"host": "evil.example"}, timeout=30).status_code
        == 403
    )
