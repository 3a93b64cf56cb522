"""Real database servers of our own, each with an empty database ``tuning``: MariaDB and PostgreSQL."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

PASSWORD = "kept-to-ourselves"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def mariadb(folder: Path) -> Generator[str]:
    """The URL of the database."""
    path = f"{os.environ['PATH']}:/usr/sbin"
    server, install = shutil.which("mariadbd", path=path), shutil.which("mariadb-install-db", path=path)
    if server is None or install is None:
        pytest.skip("needs Debian's mariadb-server")
    port = free_port()
    options = [
        "--no-defaults",
        f"--datadir={folder / 'data'}",
        f"--socket={folder / 's'}",
        f"--pid-file={folder / 'pid'}",
    ]
    user = ["--user=root"] if os.geteuid() == 0 else []
    with (folder / "install.log").open("wb") as log:
        subprocess.run(
            [install, *options[:2], "--auth-root-authentication-method=normal", "--skip-test-db", *user],
            check=True,
            stdout=log,
            stderr=log,
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
    with running(command, port, folder / "server.log"):
        yield f"mysql+pymysql://tuner:{PASSWORD}@127.0.0.1:{port}/tuning"


@contextmanager
def postgresql(folder: Path) -> Generator[str]:
    """The URL of the database. PostgreSQL refuses to run as root: then it is the package's own user, in a folder which
    that user can reach.
    """
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    path = f"{os.environ['PATH']}:{found[-1].parent}" if found else os.environ["PATH"]
    server, install, create = (shutil.which(name, path=path) for name in ("postgres", "initdb", "createdb"))
    if server is None or install is None or create is None:
        pytest.skip("needs Debian's postgresql")
    port, user = free_port(), "postgres" if os.geteuid() == 0 else None
    with tempfile.TemporaryDirectory(prefix="postgresql-", ignore_cleanup_errors=True) as own:
        if user is not None:
            shutil.chown(own, user)
        secret = Path(own) / "password"
        secret.write_text(PASSWORD)
        secret.chmod(0o644)
        data = Path(own) / "data"
        with (folder / "install.log").open("wb") as log:
            subprocess.run(
                [install, "-D", data, "-U", "tuner", "-A", "scram-sha-256", f"--pwfile={secret}", "--no-sync"],
                check=True,
                stdout=log,
                stderr=log,
                user=user,
                cwd=own,
            )
        command = [server, "-D", str(data), "-k", own, "-h", "127.0.0.1", "-p", str(port), "-F"]
        with running(
            command, port, folder / "server.log", user=user, cwd=own, stop=signal.SIGINT
        ):  # not waiting for clients
            environment = {**os.environ, "PGPASSWORD": PASSWORD}
            connection = ["-h", "127.0.0.1", "-p", str(port), "-U", "tuner"]
            subprocess.run([create, *connection, "tuning"], check=True, env=environment, cwd=own)
            yield f"postgresql+psycopg://tuner:{PASSWORD}@127.0.0.1:{port}/tuning"


@contextmanager
def running(
    command: list[str],
    port: int,
    log: Path,
    *,
    user: str | None = None,
    cwd: str | None = None,
    stop: signal.Signals = signal.SIGTERM,
) -> Generator[None]:
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, user=user, cwd=cwd)
    try:
        wait_until_open(port, process, log)
        yield
    finally:
        process.send_signal(stop)
        process.wait(60)


def wait_until_open(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise AssertionError(log.read_text())
