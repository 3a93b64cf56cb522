"""``driftwheel train`` told to end, as a supervisor does it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from training.job import CHECKPOINTS, MODEL, PROGRESS, STDERR, STOPPED


def test_sigterm_ends_the_command_after_the_ranks_have_saved(tmp_path: Path):
    command = [sys.executable, "-m", "driftwheel", "--home", str(tmp_path / "home"), "train", "mf", "--ranks", "2"]
    command += ["--estimator", "sgd"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    deadline = time.monotonic() + 150
    while not (lines := [p for p in tmp_path.glob(f"home/jobs/*/{PROGRESS}") if p.read_bytes()]):
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)
    job = lines[0].parent
    os.kill(process.pid, signal.SIGTERM)
    process.communicate(timeout=120)
    assert process.returncode == 130
    assert STOPPED in (job / STDERR).read_text()
    assert any((job / CHECKPOINTS).iterdir())
    assert not (job / MODEL).exists()
