"""The TrainJob's script, run on two nodes of this machine as Kubeflow Trainer would start it: they train one model together."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from driftwheel.bundle import list_versions, read_bundle
from driftwheel.settings import load_settings
from driftwheel.wheel.sources import Sources, remember
from tests.k8s.manifests import containers, named, pod_templates
from tests.training.tuning.servers import free_port
from training.data.sources import CustomersSource, RatingsSource
from training.data.tables import packaged_table

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(600)]

BIN = Path(sys.executable).parent


def few_ratings(path: Path) -> None:
    """The oldest 6,000 ratings of MovieLens."""
    table = packaged_table("dslabs", "movielens").sort_values("timestamp").head(6_000)
    table = table.rename(columns={"userId": "user_id", "movieId": "item_id"})
    table[["user_id", "item_id", "rating", "timestamp", "title"]].to_csv(path, index=False)


def test_the_nodes_are_those_of_the_job() -> None:
    job, runtime = named("training", "TrainJob", "driftwheel-mf"), named("training", "TrainingRuntime", "driftwheel")
    assert job["spec"]["runtimeRef"]["name"] == runtime["metadata"]["name"]
    assert job["spec"]["trainer"]["numNodes"] == runtime["spec"]["mlPolicy"]["numNodes"] == 2
    (owner,) = [template for _, template in pod_templates("training")]
    (container,) = containers(owner)
    ranks = next(one["value"] for one in container["env"] if one["name"] == "DRIFTWHEEL_TRAINING__RANKS")
    gpus = {
        limits["limits"]["nvidia.com/gpu"]
        for limits in (container["resources"], job["spec"]["trainer"]["resourcesPerNode"])
    }
    assert {ranks, str(job["spec"]["trainer"]["numProcPerNode"])} == gpus


def test_two_nodes_train_one_model_by_the_manifests_script(tmp_path: Path) -> None:
    settings = load_settings(home=tmp_path / "home")
    few_ratings(tmp_path / "ratings.csv")
    remember(settings, Sources(ratings=RatingsSource(path=str(tmp_path / "ratings.csv")), customers=CustomersSource()))
    (template,) = [template for _, template in pod_templates("training")]
    (container,) = containers(template)
    shell, flag, script = *container["command"], *container["args"]
    script = script.replace("/home/driftwheel", str(settings.home))
    ranked = {  # what Trainer's plugin for torch puts into the pods
        "PET_NNODES": "2",
        "PET_NPROC_PER_NODE": "1",
        "PET_MASTER_ADDR": "127.0.0.1",
        "PET_MASTER_PORT": str(free_port()),
    }
    environment = {
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "POD_IP": "127.0.0.1",
        "RUN": "run-1",
        "DRIFTWHEEL_TRAINING__RANKS": "1",
        "DRIFTWHEEL_TRAINING__ADDRESS": "127.0.0.1",
        "DRIFTWHEEL_TRAINING__PARAMETERS": '{"epochs": 30}',
        **ranked,
    }
    nodes = [
        subprocess.Popen(
            [shell, flag, script],
            env={**environment, "PET_NODE_RANK": str(rank)},
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in (1, 0)
    ]
    told = [node.communicate(timeout=500)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], told
    assert (settings.jobs / "done-run-1").read_text() == "0\n"
    assert list_versions(settings.models, "mf") == [1], told
    assert read_bundle(settings.models, "mf", 1).manifest.task == "rating"
    jobs = [json.loads(path.read_text()) for path in settings.jobs.glob("*/job.json")]
    assert all(job["execution"]["nodes"] == 2 for job in jobs)
