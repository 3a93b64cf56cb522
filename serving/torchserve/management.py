"""TorchServe's management API, as far as it is used: what a version's workers do, and new keys.

Versions are not registered through it. That part of it is off, so that its token cannot bring code into TorchServe.
"""

import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path
from typing import Any

import msgspec

from driftwheel.errors import DriftwheelError, NotFoundError, UnauthenticatedError, UnavailableError
from serving.torchserve.address import TorchServeAddress, management_token

_TIMEOUT_S = 5.0
_MOST_BYTES = 2**20

# Never through a proxy that the environment names: it would be shown the token.
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Worker(msgspec.Struct, frozen=True, rename="camel"):
    """A Python process of a version."""

    status: str
    """READY once the model is loaded."""
    pid: int


class Queue(msgspec.Struct, frozen=True, rename="camel"):
    """Requests that wait for a worker."""

    remaining_capacity: int
    pending_requests: int


class DescribedVersion(msgspec.Struct, frozen=True, rename="camel"):
    """A version as TorchServe sees it."""

    min_workers: int
    workers: list[Worker]
    job_queue_status: Queue

    @property
    def ready(self) -> int:
        """Workers that take requests."""
        return sum(worker.status == "READY" for worker in self.workers)


class _ApiKey(msgspec.Struct, frozen=True):
    key: str


class _Keys(msgspec.Struct, frozen=True):
    api: _ApiKey = msgspec.field(name="API")


class Management:
    """A client of one TorchServe. Its token is read anew for each call.

    Args:
        address: Where it listens.
        timeout_s: For one call.
    """

    def __init__(self, address: TorchServeAddress, *, timeout_s: float = _TIMEOUT_S) -> None:
        self._address = address
        self._timeout_s = timeout_s

    def describe(self, model: str, version: str) -> DescribedVersion:
        """A version, its workers and its queue.

        Raises:
            NotFoundError: It is not registered.
            UnauthenticatedError: Our token is refused.
            UnavailableError: TorchServe does not answer.
        """
        answer = self._get(f"/models/{model}/{version}", self._management_token())
        try:
            (described,) = msgspec.json.decode(answer, type=list[DescribedVersion])
        except (msgspec.MsgspecError, ValueError) as error:
            raise UnavailableError(f"what {self._address.management} says of {model} cannot be read: {error}") from None
        return described

    def renew_inference_key(self) -> None:
        """Have TorchServe make a new key for predictions; from now on it refuses the old one.

        Raises:
            UnauthenticatedError: The key for this is refused.
            UnavailableError: TorchServe does not answer.
        """
        self._get("/token?type=inference", self._api_key())

    def _management_token(self) -> str | None:
        try:
            return management_token(self._address)
        except (OSError, ValueError) as error:
            raise UnauthenticatedError(f"the keys of TorchServe cannot be read: {error}") from None

    def _api_key(self) -> str:
        path = Path(self._address.key_file or "")
        try:
            return msgspec.json.decode(path.read_bytes(), type=_Keys).api.key
        except (OSError, msgspec.MsgspecError):  # whose text could quote the keys
            raise UnauthenticatedError(f"{path} cannot be read as a key file of TorchServe") from None

    def _get(self, path: str, token: str | None) -> bytes:
        where = f"TorchServe at {self._address.management}"
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        request = urllib.request.Request(self._address.management + path, headers=headers)  # noqa: S310 (of our own making)
        try:
            with _opener.open(request, timeout=self._timeout_s) as answer:
                return answer.read(_MOST_BYTES)
        except urllib.error.HTTPError as error:
            with error:
                raise _refused(where, error.code, error.read(_MOST_BYTES)) from None
        except (OSError, HTTPException) as error:
            raise UnavailableError(f"{where} does not answer: {error}") from None


def _refused(where: str, code: int, body: bytes) -> DriftwheelError:
    try:
        said: dict[str, Any] = msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError):
        said = {}
    message = f"{where} answers {code}: {said.get('message', 'no reason given')}"
    if said.get("type") == "InvalidKeyException":
        return UnauthenticatedError(message)
    return NotFoundError(message) if code == 404 else UnavailableError(message)
