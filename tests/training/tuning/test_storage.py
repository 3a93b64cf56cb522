"""Storages: what is refused, what is shown, and how the dead are told from the living."""

import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from driftwheel.errors import ConfigurationError
from driftwheel.settings import Settings, TuningSettings
from tests.training.tuning.fakes import EPOCHS, FakeRunner, release, work
from training.tuning.storage import open_storage

WORKER = """
import sys
from pathlib import Path
from driftwheel.settings import Settings, TuningSettings
from tests.training.tuning.fakes import FakeRunner, work
home, storage, trials, epoch_s = sys.argv[1:]
tuning = TuningSettings(storage=storage, startup_trials=99, heartbeat_s=1, grace_s=3)
runner = FakeRunner(epoch_s=float(epoch_s))
work(Settings(home=Path(home), tuning=tuning), runner, trials=int(trials))
print(len(runner.configs))
"""


def start_worker(home: Path, storage: str, *, trials: int, epoch_s: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WORKER, str(home), storage, str(trials), str(epoch_s)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def wait_for_trials(settings: Settings, number: int, name: str = "mf-test") -> None:
    """Until so many have begun: some may have ended by the time that one looks."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        opened = open_storage(settings, study=name)
        trials = [opened.storage.get_all_trials(study._study_id) for study in opened.storage.get_all_studies()]
        release(opened)
        if any(sum(trial.state.name != "WAITING" for trial in of_study) >= number for of_study in trials):
            return
        time.sleep(0.2)
    raise AssertionError("the workers did not begin")


def kill_one_of_three(settings: Settings, storage: str, *, trials: int) -> list:
    """Three workers, the first of them killed in the middle of a trial; the study's trials in the end."""
    with ExitStack() as started:

        def begin(epoch_s: float) -> subprocess.Popen[str]:
            worker = started.enter_context(start_worker(settings.home, storage, trials=trials, epoch_s=epoch_s))
            started.callback(worker.kill)  # a failing test leaves none behind
            return worker

        workers = [begin(60.0)]
        wait_for_trials(settings, 1)
        workers += [begin(0.05) for _ in range(2)]
        wait_for_trials(settings, 2)
        workers[0].kill()
        workers[0].communicate()
        assert workers[0].returncode == -signal.SIGKILL
        shares = [int(worker.communicate(timeout=120)[0]) for worker in workers[1:]]
        assert [worker.returncode for worker in workers[1:]] == [0, 0]
    rows = work(settings, FakeRunner(), trials=trials)
    assert sum(shares) >= trials
    assert len([row for row in rows if row.done]) == trials
    assert all(row.epochs == EPOCHS for row in rows if row.done)
    dead = [row for row in rows if row.state == "fail" and row.epochs == 0 and row.params]
    assert dead[0].params in [row.params for row in rows if row.done]
    return rows


def test_three_workers_on_one_host_and_one_is_killed(tmp_path: Path):
    storage = str(tmp_path / "journal")
    rows = kill_one_of_three(Settings(home=tmp_path, tuning=TuningSettings(storage=storage)), storage, trials=8)
    assert len(rows) == 9


@pytest.mark.parametrize(
    ("storage", "words"),
    [
        ("sqlite:///x.db", r"tuning\.storage must be a file, mysql\+pymysql://\.\.\. or .*, got sqlite://"),
        (
            "mysql+pymysql://user:secret@127.0.0.1:1/db",
            r"tuning\.storage mysql\+pymysql://127\.0\.0\.1:1/db cannot be used",
        ),
        ("mysql+pymysql://user:secret@127.0.0.1:x/db", r"tuning\.storage is not a URL"),
    ],
)
def test_what_cannot_be_a_storage_is_refused_without_its_password(tmp_path: Path, storage: str, words: str):
    settings = Settings(home=tmp_path, tuning=TuningSettings(storage=storage))
    with pytest.raises(ConfigurationError, match=words) as caught:
        open_storage(settings, study="s")
    assert "secret" not in f"{caught.value} {settings!r}"
