"""``driftwheel tune --workers``: real processes on one host, and one of them killed."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from driftwheel.settings import Settings
from training.config import config_fields, config_from
from training.tuning.best import read_tuned
from training.tuning.storage import open_storage


@pytest.fixture(autouse=True)
def interruptible():
    """A shell's background job ignores SIGINT, and so would all that it starts."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def children(parent: int) -> list[int]:
    """The ids of a process's children, the oldest first."""
    found = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return sorted(int(pid) for pid in found)


def in_a_trial(process: subprocess.Popen[str]) -> list[int]:
    """Those of a command's workers that have a training job under way at the moment."""
    found = list[int]()
    with suppress(FileNotFoundError):  # one that ends while it is looked at
        for worker in children(process.pid):
            if any(b"job.json" in Path(f"/proc/{child}/cmdline").read_bytes() for child in children(worker)):
                found.append(worker)
    return found


def start(home: Path, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "driftwheel", "--home", str(home), "tune", "churn", "--estimator", "boosting"]
    return subprocess.Popen([*command, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(process: subprocess.Popen[str], workers: int) -> list[int]:
    """Until so many workers are in a trial at the same time."""
    give_up = time.monotonic() + 200
    while len(found := in_a_trial(process)) < workers:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < give_up, "the workers did not begin"
        time.sleep(0.02)
    return found


def test_one_worker_is_killed_and_the_other_does_its_trial(tmp_path: Path):
    """Whichever comes first: the other may not have begun yet."""
    process = start(tmp_path, "--workers", "2", "--trials", "2")
    killed = wait_for(process, 1)[0]
    number = 1 + children(process.pid).index(killed)
    os.kill(killed, signal.SIGKILL)
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    assert f"worker {number} is lost, 1 of 2 go on: was killed by SIGKILL" in err
    assert "2 trials, 0 of them pruned, 0 failed" in err
    assert "the next training of churn by boosting uses trial" in out + err
    found = read_tuned(Settings(home=tmp_path).tuning_folder, "churn", "boosting")
    assert found is not None
    assert (found.trials, set(found.params)) == (2, {"learning_rate", "leaves", "min_leaf_rows", "l2"})
    assert config_from("churn", config_fields(found.config)) == found.config


def test_an_interrupt_ends_all_and_the_trials_are_queued_again(tmp_path: Path):
    process = start(tmp_path, "--workers", "2", "--trials", "100")
    wait_for(process, 2)
    workers = children(process.pid)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=200)
    assert process.returncode != 0
    assert not [pid for pid in workers if Path(f"/proc/{pid}").exists()]
    settings = Settings(home=tmp_path)
    storage = open_storage(settings, study="any").storage
    (study,) = storage.get_all_studies()
    trials = storage.get_all_trials(study._study_id)
    again = [trial.system_attrs["fixed_params"] for trial in trials if trial.state.name == "WAITING"]
    interrupted = [trial.params for trial in trials if trial.state.name == "FAIL"]
    assert 1 <= len(interrupted) <= 2  # one of them may have been between two trials
    assert all(params in again for params in interrupted)


def test_workers_that_are_all_lost_are_an_error(tmp_path: Path):
    process = start(tmp_path, "--workers", "2", "--trials", "100")
    wait_for(process, 2)
    for worker in children(process.pid):
        os.kill(worker, signal.SIGKILL)
    _, err = process.communicate(timeout=200)
    assert process.returncode == 5
    assert "error: all 2 workers were lost, the last one: was killed by SIGKILL" in err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--workers", "0"], "tuning.workers"),
        (
            ["--estimator", "sgd"],
            "--estimator must be one that learns from customers (network, forest, boosting), got 'sgd'",
        ),
    ],
)
def test_what_cannot_be_tuned_is_refused_before_any_work(tmp_path: Path, words: list[str], says: str):
    process = start(tmp_path / "home", *words)
    _, err = process.communicate(timeout=200)
    assert process.returncode == 2
    assert says in " ".join(err.split()), err
    assert not (tmp_path / "home" / "data").exists()
