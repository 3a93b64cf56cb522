"""How the supervisor and the process inside the front door talk: a few files under ``<home>/run``."""

from dataclasses import dataclass
from pathlib import Path

import msgspec

from driftwheel.files import write_atomically
from driftwheel.settings import Settings


@dataclass(frozen=True, slots=True)
class ServerAddress:
    """Where a running server listens."""

    host: str
    port: int
    pid: int
    """The supervisor: a SIGTERM to it drains the server."""

    @property
    def target(self) -> str:
        """``host:port``, for gRPC clients."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """For HTTP clients."""
        return f"http://{self.target}"


def lock_path(settings: Settings) -> Path:
    """Held by the supervisor for as long as it lives."""
    return settings.runtime / "serve.lock"


def _address_path(settings: Settings) -> Path:
    return settings.runtime / "server.json"


def _drain_path(settings: Settings) -> Path:
    return settings.runtime / "drain"


def _drained_path(settings: Settings) -> Path:
    return settings.runtime / "drained"


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
    for path in (_address_path(settings), _drain_path(settings), _drained_path(settings)):
        path.unlink(missing_ok=True)


def request_drain(settings: Settings) -> None:
    """Ask the process inside the front door to turn readiness off and finish what is in flight."""
    write_atomically(_drain_path(settings), b"")


def drain_requested(settings: Settings) -> bool:
    """Whether the supervisor has asked."""
    return _drain_path(settings).exists()


def report_drained(settings: Settings) -> None:
    """Tell the supervisor that nothing is in flight and the log is on disk."""
    write_atomically(_drained_path(settings), b"")


def is_drained(settings: Settings) -> bool:
    """Whether the process inside has said so."""
    return _drained_path(settings).exists()
