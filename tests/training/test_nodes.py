"""Two nodes: two network namespaces on this machine, joined by a cable of the kernel's."""

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path

import pytest
import torch

from tests.training.samples import SMALL_CONFIG
from training.config import config_fields
from training.data.dataset import Dataset
from training.execution import Execution
from training.job import MODEL, PROGRESS, STDERR, Job, TrainedModel, read_trained
from training.models.store import load_model
from training.torchrun import JOIN, join_script, torchrun_command

LAUNCH = """
import sys
from pathlib import Path
from tests.training.samples import SMALL_CONFIG, run_job
from training.data.dataset import read_dataset
from training.execution import Execution
execution = Execution(
    nodes=2, rendezvous="10.77.0.1:29400", address="10.77.0.1", interface="dw0", max_restarts=2, silence_s=60
)
run_job(read_dataset(Path(sys.argv[1])), Path(sys.argv[2]), config=SMALL_CONFIG, ranks=1, execution=execution)
"""
ADDRESSES = ("10.77.0.1", "10.77.0.2")


@pytest.fixture
def nodes() -> Generator[tuple[str, str]]:
    """The names of two namespaces, with an interface ``dw0`` each."""
    if shutil.which("ip") is None:
        pytest.skip("network namespaces want ip, from the Debian package iproute2")
    names = (f"dw-{os.getpid()}-a", f"dw-{os.getpid()}-b")
    made = subprocess.run(["ip", "netns", "add", names[0]], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"ip (of the Debian package iproute2) may make no network namespace here: {made.stderr.strip()}")
    try:
        _ip("netns", "add", names[1])
        _ip("-n", names[0], "link", "add", "dw0", "type", "veth", "peer", "name", "dw0", "netns", names[1])
        for name, address in zip(names, ADDRESSES, strict=True):
            _ip("-n", name, "address", "add", f"{address}/24", "dev", "dw0")
            _ip("-n", name, "link", "set", "dw0", "up")
            _ip("-n", name, "link", "set", "lo", "up")
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


def test_a_node_is_killed_and_comes_back_and_the_run_goes_on(
    nodes: tuple[str, str], small_ratings: Dataset, trained_small: TrainedModel, tmp_path: Path
):
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}

    def run_on(node: int, command: list[str]) -> "subprocess.Popen[str]":
        whole = ["ip", "netns", "exec", nodes[node], *command]
        return subprocess.Popen(
            whole, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )

    jobs = tmp_path / "jobs"
    launcher = run_on(0, [sys.executable, "-c", LAUNCH, str(small_ratings.folder), str(jobs)])
    _wait_for((jobs / JOIN).exists)
    join = ["sh", str(jobs / JOIN), f"--local-addr={ADDRESSES[1]}"]
    other = run_on(1, join)
    try:
        progress = _wait_for(lambda: next(jobs.glob(f"*/{PROGRESS}"), None))
        _wait_for(lambda: progress.read_bytes().count(b"\n") >= 5)
        os.killpg(other.pid, signal.SIGKILL)  # torchrun; its rank is tied to it
        for pid in _pids_in(nodes[1]):
            os.kill(pid, signal.SIGKILL)
        other.communicate()
        done = progress.read_bytes().count(b"\n")
        assert done < SMALL_CONFIG.epochs
        other = run_on(1, join)
        assert launcher.wait(200) == 0, launcher.communicate()[0] + (progress.parent / STDERR).read_text()
        assert other.wait(200) == 0, other.communicate()[0]
    finally:
        for process in (launcher, other):
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
        for node in nodes:
            for pid in _pids_in(node):
                os.kill(pid, signal.SIGKILL)
    trained = read_trained(progress.parent / MODEL)
    assert (trained.ranks, len(trained.history)) == (2, SMALL_CONFIG.epochs)
    here = [event.valid_metric for event in trained_small.history]
    assert [event.valid_metric for event in trained.history] == here
    for name, value in load_model(trained_small.folder).state_dict().items():
        assert torch.equal(load_model(trained.folder).state_dict()[name], value), name


def test_what_torchrun_is_told():
    execution = Execution(nodes=3, rendezvous="one:29400", interface="eth1", address="one", max_restarts=4)
    job = Job(
        key="k", task="rating", dataset="d", folder="f", config=config_fields(SMALL_CONFIG), seed=1, threads=5,
        ranks=2, code_revision="", execution=execution,
    )  # fmt: skip
    command = torchrun_command(job, ["a b.json"], "training.worker")
    expected = ["--nnodes=3", "--rdzv-endpoint=one:29400", "--rdzv-id=k", "--local-addr=one", "--rdzv-conf=is_host=1"]
    assert {*expected, "--nproc-per-node=2", "--max-restarts=4"} <= set(command)
    assert command[-3:] == ["-m", "training.worker", "a b.json"]
    script = join_script(job, ["a b.json"], "training.worker")
    assert "export OMP_NUM_THREADS=5\n" in script
    assert "export GLOO_SOCKET_IFNAME=eth1\n" in script
    assert "--rdzv-conf=is_host=0" in script
    assert script.endswith("\"$@\" -m training.worker 'a b.json'\n")
    alone = torchrun_command(dataclasses.replace(job, execution=Execution()), [], "training.worker")
    assert "--standalone" in alone
    assert not [word for word in alone if "rdzv" in word]


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


def _pids_in(node: str) -> list[int]:
    listed = subprocess.run(["ip", "netns", "pids", node], capture_output=True, text=True)
    return [int(pid) for pid in listed.stdout.split()]


def _wait_for(condition, timeout_s: float = 200.0):
    deadline = time.monotonic() + timeout_s
    while not (result := condition()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)
    return result
