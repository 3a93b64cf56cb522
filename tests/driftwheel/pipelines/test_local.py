"""The whole pipeline on this machine, on real customers: a version that passes is deployed, and one that does not is not."""

import itertools
import json
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from driftwheel.bundle import list_versions, read_bundle
from driftwheel.rollout import read_rollout
from driftwheel.settings import Settings
from monitoring.ledger import Ledger
from training.data.tables import packaged_table
from training.registry import Registry

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(600)]


@dataclass
class Done:
    code: int
    answer: dict[str, Any]
    errors: str


@dataclass
class World:
    settings: Settings
    store: Path
    first: Done
    refused: Done


def shuffled(path: Path) -> Path:
    """The real customers, with labels that somebody joined to the wrong rows."""
    table = packaged_table("modeldata", "wa_churn")
    table["churn"] = np.random.default_rng(0).permutation(table["churn"].to_numpy())
    table.to_csv(path, index=False)
    return path


def run(home: Path, *words: str) -> Done:
    command = [sys.executable, "-m", "driftwheel", "--home", str(home), "pipeline", "run", "--json", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    return Done(done.returncode, json.loads(done.stdout) if done.stdout else {}, done.stderr)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("pipeline")
    home, store = folder / "home", folder / "store"
    words = ("--model", "churn", "--estimator", "boosting", "--store", str(store))
    first = run(home, *words)
    table = shuffled(folder / "customers.csv")
    refused = run(home, *words, "--customers", str(table), "--id-column", "rownames")
    return World(Settings(home=home), store, first, refused)


def test_a_version_that_passes_is_deployed(world: World) -> None:
    answer = world.first.answer
    assert (world.first.code, answer["entry"], answer["passed"]) == (0, "in service", True), world.first.errors
    bundle = read_bundle(world.settings.models, "churn", answer["version"])
    assert bundle.manifest.metrics == pytest.approx(answer["metrics"])
    assert answer["metrics"]["auc"] > 0.8
    assert read_rollout(world.settings.rollouts, "churn").stable == answer["version"]
    assert (world.store / "models/churn/1/bundle.json").exists()
    assert (world.store / "rollouts/churn.json").exists()


def test_artifacts_are_of_what_was_measured(world: World) -> None:
    answer = world.first.answer
    folder = Path(answer["artifacts"]["classification"]).parent
    told = json.loads((folder / "executor_output.json").read_text())["artifacts"]["classification"]["artifacts"][0]
    matrix = [row["row"] for row in told["metadata"]["confusionMatrix"]["rows"]]
    metrics = answer["metrics"]
    assert matrix == [
        [metrics["true_negatives"], metrics["false_positives"]],
        [metrics["false_negatives"], metrics["true_positives"]],
    ]
    points = told["metadata"]["confidenceMetrics"]
    area = sum(
        (b["falsePositiveRate"] - a["falsePositiveRate"]) * (a["recall"] + b["recall"]) / 2
        for a, b in itertools.pairwise(points)
    )
    assert area == pytest.approx(metrics["auc"], abs=5e-3)
    assert f"| auc | {metrics['auc']:.4f} | - |" in Path(answer["artifacts"]["comparison"]).read_text()
    assert Path(answer["artifacts"]["verdict"]).read_text().startswith("# churn version 1: passed")


def test_a_version_that_the_gate_refuses_is_deployed_nowhere(world: World) -> None:
    answer = world.refused.answer
    assert (world.refused.code, answer["passed"], answer["entry"]) == (5, False, "refused"), world.refused.errors
    assert answer["version"] == 2
    assert "auc" in answer["reasons"]
    assert "is worse than its bound 0.8000" in answer["reasons"]
    assert [info.version for info in Registry(world.settings).versions("churn")] == [1, 2], "it is on record"
    assert list_versions(world.settings.models, "churn") == [1]
    rollout = read_rollout(world.settings.rollouts, "churn")
    assert (rollout.stable, rollout.candidate, rollout.revision) == (1, None, 1)
    assert [path.name for path in (world.store / "models/churn").iterdir()] == ["1"]
    assert Ledger(world.settings.ledger).latest("churn", "gate")[0].summary.startswith("version 2 refused")
    assert len(Ledger(world.settings.ledger).entries("churn", "rollout")) == 1


def test_a_step_that_fails_says_why(world: World, tmp_path: Path) -> None:
    table = tmp_path / "customers.csv"
    table.write_text("tenure,monthly_charges\n1,2\n")
    done = run(world.settings.home, "--model", "churn", "--customers", str(table))
    assert done.code == 1
    assert "error: the pipeline failed: " in done.errors
    assert str(table) in done.errors
    assert "Traceback" not in done.errors
    assert read_rollout(world.settings.rollouts, "churn").stable == 1


def test_a_run_that_is_told_to_end_leaves_nothing_running(world: World, tmp_path: Path) -> None:
    home = str(tmp_path / "home")
    command = [sys.executable, "-m", "driftwheel", "--home", home, "pipeline", "run", "--model", "churn"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    with process:
        for line in process.stderr:
            if line.strip() == "prepare":
                break
        give_up = time.monotonic() + 150
        while len(working_on(home)) <= 2:  # the step's own process is under way
            assert time.monotonic() < give_up
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        process.stderr.read()
    assert process.returncode == 130
    deadline = time.monotonic() + 60
    while working_on(home) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert working_on(home) == []


def working_on(home: str) -> list[str]:
    """The command lines of the processes that are told of a home."""
    found = list[str]()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            words = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            found += [words] if home in words else []
    return found


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--model", "nothing"], "no data is known for model 'nothing'"),
        (["--model", "churn", "--estimator", "als"], "als"),
        (["--store", "nonsense://bucket"], "the store nonsense://bucket cannot be used"),
    ],
)
def test_bad_input_is_refused_before_anything_runs(tmp_path: Path, words: list[str], says: str) -> None:
    done = run(tmp_path / "home", *words)
    assert done.code in (2, 3)
    assert says in done.errors
    assert not (tmp_path / "home/pipelines").exists()
