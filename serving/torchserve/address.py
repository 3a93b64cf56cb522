"""Where this home's TorchServe listens, as ``driftwheel torchserve up`` wrote it down, and the tokens that it asks for."""

from datetime import datetime
from pathlib import Path
from typing import Literal

import msgspec

from driftwheel.files import write_atomically

ADDRESS = "address.json"
"""There while TorchServe runs; removed when it is stopped."""

KEY_FILE = "key_file.json"
"""TorchServe writes its tokens to a file of this name, in its working folder."""

Api = Literal["inference", "management"]


class TorchServeAddress(msgspec.Struct, frozen=True, kw_only=True):
    """A TorchServe that was ready when this was written."""

    pid: int
    """The Java process, which leads a process group of its own; the Python workers are its children."""
    started_ticks: int
    """When the process began, in clock ticks after boot: its id alone may be another process's by now."""
    grpc: str
    """The inference API, ``host:port``."""
    http: str
    """The same over HTTP, a URL."""
    management: str
    """The management API, a URL."""
    metrics: str
    """Prometheus metrics under ``/metrics``, a URL."""
    key_file: str | None
    """Where the tokens lie; None where TorchServe asks for none."""
    models: dict[str, list[str]]
    """The versions that it serves, by model."""


class _Key(msgspec.Struct, frozen=True):
    key: str
    expires: datetime | None = msgspec.field(default=None, name="expiration time")


class _Keys(msgspec.Struct, frozen=True):
    inference: _Key
    management: _Key


def read(folder: Path) -> TorchServeAddress | None:
    """Where the TorchServe that was started with this folder listens; None where none was.

    Raises:
        ValueError: The file is damaged.
    """
    path = folder / ADDRESS
    try:
        return msgspec.json.decode(path.read_bytes(), type=TorchServeAddress)
    except FileNotFoundError:
        return None
    except msgspec.MsgspecError as error:
        raise ValueError(f"{path} is damaged: {error}") from None


def write(folder: Path, address: TorchServeAddress) -> None:
    """Write down where TorchServe listens, once it is ready."""
    write_atomically(folder / ADDRESS, msgspec.json.format(msgspec.json.encode(address), indent=2))


def remove(folder: Path) -> None:
    """Forget a TorchServe that has ended."""
    (folder / ADDRESS).unlink(missing_ok=True)


def inference_token(address: TorchServeAddress) -> str | None:
    """The token that the inference API asks for; None where it asks for none. It is a secret: never log it.

    Raises:
        OSError: The key file cannot be read.
        ValueError: The key file is damaged.
    """
    return None if address.key_file is None else read_token(Path(address.key_file), "inference")


def management_token(address: TorchServeAddress) -> str | None:
    """The token that the management API asks for; otherwise as ``inference_token``."""
    return None if address.key_file is None else read_token(Path(address.key_file), "management")


def read_token(key_file: Path, api: Api) -> str:
    """A token out of TorchServe's key file.

    Raises:
        OSError: The file cannot be read.
        ValueError: The file is damaged; the message does not quote it.
    """
    try:
        keys = msgspec.json.decode(key_file.read_bytes(), type=_Keys)
    except msgspec.MsgspecError:
        raise ValueError(f"{key_file} is not a key file of TorchServe") from None
    return (keys.inference if api == "inference" else keys.management).key
