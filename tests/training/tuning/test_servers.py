"""Workers over a database: a real MariaDB."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Generator
from pathlib import Path

import pytest

from driftwheel.settings import Settings, TuningSettings
from tests.training.tuning.fakes import FakeRunner, work
from tests.training.tuning.test_storage import kill_one_of_three
from training.tuning.storage import open_storage, reachable

pytestmark = pytest.mark.system

PASSWORD = "kept-to-ourselves"


@pytest.fixture(scope="module")
def mariadb(tmp_path_factory: pytest.TempPathFactory) -> Generator[str]:
    """The URL of an empty database on a server of our own."""
    path = f"{os.environ['PATH']}:/usr/sbin"
    server, install = shutil.which("mariadbd", path=path), shutil.which("mariadb-install-db", path=path)
    if server is None or install is None:
        pytest.skip("needs Debian's mariadb-server")
    folder = tmp_path_factory.mktemp("mariadb")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = [
        "--no-defaults",
        f"--datadir={folder / 'data'}",
        f"--socket={folder / 's'}",
        f"--pid-file={folder / 'pid'}",
    ]
    user = ["--user=root"] if os.geteuid() == 0 else []
    install_log = (folder / "install.log").open("wb")
    subprocess.run(
        [install, *options[:2], "--auth-root-authentication-method=normal", "--skip-test-db", *user],
        check=True,
        stdout=install_log,
        stderr=install_log,
    )
    (folder / "init.sql").write_text(
        f"CREATE DATABASE tuning;\nCREATE USER 'tuner'@'127.0.0.1' IDENTIFIED BY '{PASSWORD}';\n"
        "GRANT ALL ON tuning.* TO 'tuner'@'127.0.0.1';\n"
    )
    command = [
        server,
        *options,
        *user,
        f"--port={port}",
        "--bind-address=127.0.0.1",
        "--skip-name-resolve",
        f"--init-file={folder / 'init.sql'}",
    ]
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        _wait_until_open(port, process, folder / "server.log")
        yield f"mysql+pymysql://tuner:{PASSWORD}@127.0.0.1:{port}/tuning"
    finally:
        process.terminate()
        process.wait(30)
        install_log.close()


def _wait_until_open(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise AssertionError(log.read_text())


def test_three_workers_over_mariadb_and_one_is_killed(mariadb: str, tmp_path: Path):
    settings = Settings(home=tmp_path, tuning=TuningSettings(storage=mariadb, heartbeat_s=1, grace_s=3))
    rows = kill_one_of_three(settings, mariadb, trials=7)
    assert len({str(row.params) for row in rows if row.done}) == 7


def test_a_study_in_a_database_goes_on(mariadb: str, tmp_path: Path):
    settings = Settings(home=tmp_path, tuning=TuningSettings(storage=mariadb))
    opened = open_storage(settings, study="mf-second")
    assert PASSWORD not in opened.described
    assert "tuner" not in opened.described
    work(settings, FakeRunner(), name="mf-second", trials=2)
    runner = FakeRunner()
    with reachable(opened):
        assert len(work(settings, runner, name="mf-second", opened=opened, trials=4)) == 4
    assert len(runner.configs) == 2
