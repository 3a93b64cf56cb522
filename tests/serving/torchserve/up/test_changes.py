"""TorchServe as ``driftwheel torchserve up`` runs it: replaced without a failed call, gone when it is stopped."""

import os
import signal
import threading
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from driftwheel.errors import BusyError, ConfigurationError, DriftwheelError
from driftwheel.files import exclusive_lock
from driftwheel.settings import load_settings
from serving.backends.torchserve import TorchServeBackend
from serving.backends.torchserve_link import TorchServeLink, located_in
from serving.torchserve import address as addresses
from serving.torchserve import lifecycle
from serving.torchserve.configuration import ArchivedVersion
from serving.torchserve.instance import instances, prepare
from serving.torchserve.ports import chosen_ports
from serving.torchserve.status import status
from tests.serving.torchserve.running import free_ports, needs_java
from tests.serving.torchserve.up.home import BOTH, Home, family, wait_for

pytestmark = [pytest.mark.system, needs_java]


def test_status_tells_of_each_version(started: Home) -> None:
    found = status(started.settings)
    assert found is not None
    assert found.healthy
    assert [(one.model, one.version, one.workers_ready, one.queued, one.queue_size) for one in found.versions] == [
        ("mf", "1", 1, 0, 1000),
        ("churn", "1", 1, 0, 1000),
    ]
    assert {pid for one in found.versions for pid in one.pids} < set(family(found.pid))


def test_without_a_change_nothing_happens(started: Home) -> None:
    before = started.address
    assert started.up(*BOTH) == "unchanged"
    assert started.address == before


def test_one_starts_it_at_a_time(started: Home) -> None:
    with (
        exclusive_lock(started.settings.torchserve_folder / "lock", purpose="a test"),
        pytest.raises(BusyError, match="starting or stopping TorchServe is already going on"),
    ):
        started.up(*BOTH)


def test_in_the_foreground_a_second_one_is_refused(started: Home) -> None:
    with pytest.raises(ConfigurationError, match="TorchServe runs already, as process"):
        lifecycle.up(started.settings, [], lambda _ready, _of: None, foreground=True)


def torn(archive: Path, target: Path) -> None:
    """What unpacking refuses."""
    content = bytearray(archive.read_bytes())
    content[content.index(b"model.onnx") + 20] ^= 0xFF
    target.write_bytes(content)


def altered(archive: Path, target: Path) -> None:
    """What our handler refuses."""
    with zipfile.ZipFile(archive) as source, zipfile.ZipFile(target, "w") as made:
        for name in source.namelist():
            made.writestr(name, source.read(name) + (b" " if name == "model.onnx" else b""))


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (torn, "TorchServe refuses .*churn-1.mar"),
        (altered, "TorchServe cannot load churn version 1: .*model.onnx is damaged"),
    ],
)
def test_what_cannot_be_loaded_is_told_and_what_ran_goes_on(
    started: Home, tmp_path: Path, damage: Callable[[Path, Path], None], says: str
) -> None:
    before = started.address
    good = started.archived("mf", 1)
    damaged = tmp_path / "churn-1.mar"
    damage(started.archived("churn", 1).archive, damaged)
    with pytest.raises(DriftwheelError, match=says):
        lifecycle.up(
            started.settings, [good, ArchivedVersion("churn", 1, damaged, "damaged")], lambda _ready, _of: None
        )
    assert started.address == before
    found = status(started.settings)
    assert found is not None
    assert found.healthy
    running = [one for one in instances(started.settings.torchserve_folder / "runs") if one.runs]
    assert [one.folder for one in running] == [started.run]


def test_what_a_killed_command_left_is_stopped(started: Home) -> None:
    settings = started.settings
    plan = lifecycle.plan_for(settings.torchserve, [started.archived("mf", 1)])
    stray = prepare(settings.torchserve_folder / "runs", plan, chosen_ports(settings.torchserve))
    stray.start(plan, os.environ, tie=False)
    assert stray.runs
    assert started.up(*BOTH) == "unchanged"
    assert not stray.runs


def test_a_change_takes_over_and_no_call_fails(started: Home) -> None:
    before = started.address
    bundle = started.bundles["mf", 1]
    link = TorchServeLink(located_in(started.settings.torchserve_folder))
    backend = TorchServeBackend(link, name="mf", version=1, signature=bundle.manifest.signature, timeout_s=10)
    feed = {"user_index": np.array([1, 2]), "item_index": np.array([1, 2])}
    done, answered, failed = threading.Event(), [], []

    def call() -> None:
        while not done.is_set():
            try:
                answered.append(backend.run(feed)["score"].tolist())
            except DriftwheelError as error:
                failed.append(error)

    callers = [threading.Thread(target=call) for _ in range(4)]
    for one in callers:
        one.start()
    try:
        # The new version is listed first: it answers calls that name none.
        assert started.up(("mf", 2), ("mf", 1)) == "replaced"
        time.sleep(0.5)
    finally:
        done.set()
        for one in callers:
            one.join()
        backend.close()
    assert failed == []
    assert len(answered) > 100
    assert all(one == pytest.approx([3.1, 3.7]) for one in answered)
    assert family(before.pid) == []
    assert started.address.models == {"mf": ["2", "1"]}
    assert [one.folder for one in instances(started.settings.torchserve_folder / "runs")] == [started.run]
    (default,) = started.manage("GET", "/models/mf").json()
    assert default["modelVersion"] == "2"


def test_after_a_crash_it_is_down_and_can_be_started_again(home: Home) -> None:
    home.up(("mf", 2), ("mf", 1))
    pid = home.address.pid
    workers = family(pid)[1:]
    for one in workers:
        os.kill(one, signal.SIGSTOP)  # they cannot see that the frontend is gone, and stay
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: status(home.settings) is None)
    with pytest.raises(DriftwheelError, match="TorchServe ended by itself"):
        lifecycle.stay(home.settings)
    assert home.up(("mf", 1)) == "started"
    assert family(pid) == []
    found = status(home.settings)
    assert found is not None
    assert found.healthy


def test_a_home_with_a_long_name_and_a_fixed_port(home: Home, tmp_path: Path) -> None:
    long = tmp_path / ("long-" * 20)
    (port,) = free_ports(1)
    for change, batch_size in (("started", 8), ("replaced", 9)):
        settings = load_settings(home=long, torchserve={"grpc_port": port, "batch_size": batch_size})
        assert lifecycle.up(settings, [home.archived("mf", 1)], lambda _ready, _of: None) == change
        address = addresses.read(settings.torchserve_folder)
        assert address is not None
        assert address.grpc == f"127.0.0.1:{port}"
        # The paths of sockets have to be short.
        elsewhere = (Path(address.key_file or "").parent / "tmp").resolve()
        assert elsewhere.name.startswith("driftwheel-torchserve-")
        assert len(family(address.pid)) == 2
    assert lifecycle.down(settings)
    assert not elsewhere.exists()
    assert family(address.pid) == []


def test_down_leaves_nothing_but_logs(home: Home) -> None:
    home.up(("mf", 1))
    pid, run = home.address.pid, home.run
    assert lifecycle.down(home.settings)
    assert family(pid) == []
    assert not (home.settings.torchserve_folder / "address.json").exists()
    assert not (run / "key_file.json").exists()
    assert not (run / "tmp").exists()
    assert (run / "torchserve.log").exists()
    assert not lifecycle.down(home.settings)
    assert status(home.settings) is None
