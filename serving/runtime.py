"""How the supervisor and the workers inside the front door talk: a few files under ``<home>/run``."""

import os
from dataclasses import dataclass
from pathlib import Path

import msgspec

from driftwheel.files import write_atomically
from driftwheel.settings import Settings
from serving.wishes import drop_wishes


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


def lock_path(settings: Settings) -> Path:
    """Held by the supervisor for as long as it lives."""
    return settings.runtime / "serve.lock"


def _address_path(settings: Settings) -> Path:
    return settings.runtime / "server.json"


def _drain_path(settings: Settings) -> Path:
    return settings.runtime / "drain"


def _last_flush_path(settings: Settings, process: int) -> Path:
    return settings.runtime / f"drain-{process}"


def _drained_path(settings: Settings, process: int) -> Path:
    return settings.runtime / f"drained-{process}"


def wishes_folder(settings: Settings) -> Path:
    """What operators asked of the running server (``serving.wishes``)."""
    return settings.runtime / "wishes"


def announce(settings: Settings, address: ServerAddress) -> None:
    """Write where the server listens, once it takes traffic."""
    write_atomically(_address_path(settings), msgspec.json.encode(address))


def server_address(settings: Settings) -> ServerAddress | None:
    """Where the server of this home listens; None where none has announced itself."""
    try:
        return msgspec.json.decode(_address_path(settings).read_bytes(), type=ServerAddress)
    except FileNotFoundError:
        return None


def clear(settings: Settings) -> None:
    """Forget what an earlier server left."""
    by_worker = settings.runtime.glob("drain*-*")
    for path in (_address_path(settings), _drain_path(settings), *by_worker):
        path.unlink(missing_ok=True)
    drop_wishes(wishes_folder(settings))


def request_drain(settings: Settings) -> None:
    """Ask every worker to turn readiness off and finish what is in flight."""
    write_atomically(_drain_path(settings), b"")


def drain_requested(settings: Settings) -> bool:
    """Whether the supervisor has asked."""
    return _drain_path(settings).exists()


def request_last_flush(settings: Settings, process: int) -> None:
    """Ask a draining worker, which has answered all that Envoy gave it, to write its log; then it is ended."""
    write_atomically(_last_flush_path(settings, process), b"")


def last_flush_requested(settings: Settings) -> bool:
    """Whether the supervisor has asked this worker."""
    return _last_flush_path(settings, os.getpid()).exists()


def report_drained(settings: Settings) -> None:
    """Tell the supervisor that nothing is in flight in this worker and its log is on disk."""
    write_atomically(_drained_path(settings, os.getpid()), b"")


def is_drained(settings: Settings, process: int) -> bool:
    """Whether the worker with this process id has said so."""
    return _drained_path(settings, process).exists()
