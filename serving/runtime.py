"""How the supervisor and the workers inside the front door talk: a few files under ``<home>/run``."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import msgspec

from driftwheel.files import write_atomically
from serving.wishes import drop_wishes


class Home(Protocol):
    """What both know of the home that is served: ``Settings`` and ``Plan``."""

    @property
    def runtime(self) -> Path:
        """Where the files lie."""
        ...


@dataclass(frozen=True, slots=True)
class ServerAddress:
    """Where a running server listens."""

    host: str
    port: int
    pid: int
    """The supervisor: a SIGTERM to it drains the server."""
    tls: bool = False

    @property
    def target(self) -> str:
        """``host:port``, for gRPC clients."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """For HTTP clients."""
        return f"{'https' if self.tls else 'http'}://{self.target}"


def lock_path(home: Home) -> Path:
    """Held by the supervisor for as long as it lives."""
    return home.runtime / "serve.lock"


def _address_path(home: Home) -> Path:
    return home.runtime / "server.json"


def _drain_path(home: Home) -> Path:
    return home.runtime / "drain"


def _last_flush_path(home: Home, process: int) -> Path:
    return home.runtime / f"drain-{process}"


def _drained_path(home: Home, process: int) -> Path:
    return home.runtime / f"drained-{process}"


def wishes_folder(home: Home) -> Path:
    """What operators asked of the running server (``serving.wishes``)."""
    return home.runtime / "wishes"


def announce(home: Home, address: ServerAddress) -> None:
    """Write where the server listens, once it takes traffic."""
    write_atomically(_address_path(home), msgspec.json.encode(address))


def server_address(home: Home) -> ServerAddress | None:
    """Where the server of this home listens; None where none has announced itself."""
    try:
        return msgspec.json.decode(_address_path(home).read_bytes(), type=ServerAddress)
    except FileNotFoundError:
        return None


def clear(home: Home) -> None:
    """Forget what an earlier server left."""
    by_worker = home.runtime.glob("drain*-*")
    for path in (_address_path(home), _drain_path(home), *by_worker):
        path.unlink(missing_ok=True)
    drop_wishes(wishes_folder(home))


def request_drain(home: Home) -> None:
    """Ask every worker to turn readiness off and finish what is in flight."""
    write_atomically(_drain_path(home), b"")


def drain_requested(home: Home) -> bool:
    """Whether the supervisor has asked."""
    return _drain_path(home).exists()


def request_last_flush(home: Home, process: int) -> None:
    """Ask a draining worker, which has answered all that Envoy gave it, to write its log; then it is ended."""
    write_atomically(_last_flush_path(home, process), b"")


def last_flush_requested(home: Home) -> bool:
    """Whether the supervisor has asked this worker."""
    return _last_flush_path(home, os.getpid()).exists()


def report_drained(home: Home) -> None:
    """Tell the supervisor that nothing is in flight in this worker and its log is on disk."""
    write_atomically(_drained_path(home, os.getpid()), b"")


def is_drained(home: Home, process: int) -> bool:
    """Whether the worker with this process id has said so."""
    return _drained_path(home, process).exists()
