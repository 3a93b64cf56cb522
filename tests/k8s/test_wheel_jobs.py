"""The scripts of the wheel's jobs, run as they stand: every model in service has its turn, and a failure is not forgotten."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from driftwheel.errors import NotFoundError
from driftwheel.exits import EXIT_CODES
from driftwheel.rollout import serve_stable
from tests.k8s.manifests import containers, pod_templates

BIN = Path(sys.executable).parent


def run(job: str, home: Path) -> "subprocess.CompletedProcess[str]":
    """What the job's container runs, over a home of this machine."""
    template = dict(pod_templates("overlays/dev"))[f"CronJob driftwheel-{job}"]
    (container,) = containers(template)
    *shell, script = [*container["command"], *container["args"]]
    command = [*shell, script.replace("/home/driftwheel", str(home))]
    environment = {"PATH": f"{BIN}:{os.environ['PATH']}", "HOME": str(home), "DRIFTWHEEL_LOG_FORMAT": "json"}
    return subprocess.run(command, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("job", ["drift", "judge"])
def test_a_home_without_models_is_nothing_to_do(job: str, tmp_path: Path) -> None:
    assert run(job, tmp_path).returncode == 0


def test_a_model_without_a_trial_is_nothing_to_judge(tmp_path: Path) -> None:
    serve_stable(tmp_path / "rollouts", "mf", 1, by="test", now="2026-01-01T00:00:00Z")
    done = run("judge", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "mf" in done.stderr


def test_one_model_that_fails_keeps_no_other_from_its_turn(tmp_path: Path) -> None:
    """The first one's rollout is damaged; the other's version is not there, which has a code of its own."""
    serve_stable(tmp_path / "rollouts", "mf", 1, by="test", now="2026-01-01T00:00:00Z")
    (tmp_path / "rollouts/churn.json").write_text("{")
    done = run("drift", tmp_path)
    assert done.returncode == EXIT_CODES[NotFoundError], done.stderr
    assert "churn.json" in done.stderr
    assert "mf" in done.stderr
