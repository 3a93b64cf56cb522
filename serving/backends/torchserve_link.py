"""The connection to a TorchServe: where it is, its token, and whether it answers.

The circuit breaker opens on what Ping says: it is asked five times a second, and at once when a call fails as it fails when
there is nobody to take it, or when TorchServe says that it has no such version. While it is open no call is tried, and the
calls in flight are ended. It closes once Ping is answered, and the version's golden requests as they were when it was
loaded, at whatever address TorchServe has come back.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import grpc
from google.protobuf.empty_pb2 import Empty

from driftwheel.errors import UnavailableError
from serving.backends.torchserve_answers import Proof
from serving.backends.torchserve_faults import first_line
from serving.torchserve.address import inference_token, read

PING_EVERY_S = 0.2

_PING_TIMEOUT_S = 1.0
_PROOF_TIMEOUT_S = 5.0
"""A version may be registered before its worker is ready; TorchServe lets requests wait for that."""
_SILENT_PINGS = 2
"""Pings in a row without an answer that make it down. A refused connection is enough by itself; silence may be a collection of
garbage, or a busy machine."""

_SERVICE = "/org.pytorch.serve.grpc.inference.InferenceAPIsService"
_NOTHING = Empty().SerializeToString()
_NO_TOKEN = (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED)
_OPTIONS = [
    # gRPC would wait for up to two minutes before it tries again what did not answer.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 200),
    ("grpc.max_receive_message_length", -1),
]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a TorchServe listens for gRPC."""

    target: str
    token: str | None = field(repr=False)
    """For its inference API; None where it wants none."""


Locate = Callable[[], Place | None]


def located_in(folder: Path) -> Locate:
    """Look up the TorchServe that was started with this folder; None where none was."""

    def locate() -> Place | None:
        address = read(folder)
        return None if address is None else Place(address.grpc, inference_token(address))

    return locate


class _Connection:
    """A channel to one place. Channels to the same target share one connection, in whichever version they are."""

    def __init__(self, place: Place, before: "_Connection | None") -> None:
        self.place = place
        self.metadata = (("authorization", f"Bearer {place.token}"),) if place.token else ()
        same = before is not None and before.place.target == place.target
        self.channel = before.channel if before and same else grpc.insecure_channel(place.target, options=_OPTIONS)
        self.ping = self.channel.unary_unary(f"{_SERVICE}/Ping")
        self.predict = self.channel.unary_unary(f"{_SERVICE}/Predictions")


class TorchServeLink:
    """One version's way to its TorchServe. Thread-safe; ``close`` it.

    Args:
        locate: Tells where TorchServe is; asked before every Ping.
        clock: Seconds, monotonic.
    """

    def __init__(self, locate: Locate, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._locate = locate
        self._clock = clock
        self._connection: _Connection | None = None
        self._looking = threading.Lock()
        self._looked_at = 0.0
        self._silent = 0
        self._guard = threading.Lock()
        """For the calls in flight."""
        self._calls: dict[grpc.Future, _Connection] = {}
        self._left: list[_Connection] = []
        """To where TorchServe was before it moved, where calls may still be in flight; or where it was not as it should be."""
        self._closed = threading.Event()
        self.proof: Proof | None = None
        """What must be answered rightly before a version that was down counts as up again."""
        self.down: str | None = None
        """Why no call can be answered, while that is so."""
        self.look()
        threading.Thread(target=self._watch, name="torchserve-link", daemon=True).start()

    @property
    def target(self) -> str:
        """Where TorchServe was last."""
        return self._connection.place.target if self._connection else "nowhere"

    def call(self, message: bytes, timeout_s: float) -> bytes:
        """Call Predictions once.

        Args:
            message: A PredictionsRequest.

        Returns:
            A PredictionResponse.

        Raises:
            UnavailableError: The breaker is open, or opened meanwhile.
            grpc.RpcError: The call failed otherwise.
        """
        connection = self._connection
        if self.down is not None or connection is None:
            raise UnavailableError(self.down or "the link to TorchServe is closed")
        try:
            call: grpc.Future = connection.predict.future(message, timeout=timeout_s, metadata=connection.metadata)
        except ValueError:  # its channel has been closed this very moment
            raise UnavailableError(f"TorchServe at {connection.place.target} has moved, or this version left") from None
        with self._guard:
            self._calls[call] = connection
        try:
            # It may have opened before the call was among those that it ends.
            if self.down is not None:
                call.cancel()
            return call.result()
        except grpc.FutureCancelledError:
            raise UnavailableError(self.down or "the link to TorchServe is closed") from None
        finally:
            with self._guard:
                del self._calls[call]

    def look(self) -> str | None:
        """See whether TorchServe answers: ``down`` as it is now. Whoever comes while another one looks shares its answer."""
        asked_at = self._clock()
        with self._looking:
            if self._looked_at < asked_at and not self._closed.is_set():
                self._close_left()
                self._settle(self._probe())
                self._looked_at = self._clock()
                if self._closed.is_set():  # meanwhile
                    self._end()
        return self.down

    def trip(self, reason: str) -> None:
        """Open the breaker, for a reason that Ping does not see; it closes as always."""
        with self._looking:
            if self.down is None:
                self._settle(reason)

    def close(self) -> None:
        """End the calls in flight and the connection. Does not wait: versions are freed on the event loop."""
        self._closed.set()
        self._end()

    def _end(self) -> None:
        self._settle("the model has been unloaded")
        for connection in (self._connection, *self._left):
            if connection is not None:
                connection.channel.close()

    def _watch(self) -> None:
        while not self._closed.wait(PING_EVERY_S):
            self.look()

    def _settle(self, down: str | None) -> None:
        self.down = down
        if down is not None:
            with self._guard:
                calls = list(self._calls)
            for call in calls:
                call.cancel()

    def _probe(self) -> str | None:
        """Why TorchServe cannot be called; None where it can. One that comes back, or is another one, must prove itself
        before it is called.
        """
        current, was_down = self._connection, self.down is not None
        found = self._found()
        if isinstance(found, str):
            if current is None or was_down:
                return found
            found = current  # it may be about to stop: Ping will tell
        fault = self._ping(found)
        if fault is None and (was_down or found is not current):
            fault = self._disproved(found)
        if fault is None or current is None or was_down:
            self._connection = found
            self._leave(current, found)
            return fault
        self._leave(found, current)
        return fault if found is current else self._ping(current)

    def _found(self) -> _Connection | str:
        """The way to where TorchServe is now; or why that cannot be told."""
        try:
            place = self._locate()
        except (OSError, ValueError) as error:
            return f"where TorchServe is cannot be read: {error}"
        if place is None:
            return "no TorchServe has been started here (driftwheel torchserve up)"
        current = self._connection
        return current if current is not None and current.place == place else _Connection(place, current)

    def _leave(self, left: _Connection | None, stays: _Connection) -> None:
        if left is not None and left.channel is not stays.channel:
            self._left.append(left)

    def _close_left(self) -> None:
        """Close the connections that are not used any more, once their calls are done."""
        with self._guard:
            busy = {connection.channel for connection in self._calls.values()}
        for connection in [one for one in self._left if one.channel not in busy]:
            self._left.remove(connection)
            connection.channel.close()

    def _ping(self, connection: _Connection) -> str | None:
        try:
            connection.ping(_NOTHING, timeout=_PING_TIMEOUT_S, metadata=connection.metadata)
        except grpc.RpcError as error:
            return self._unanswered(connection, error)
        self._silent = 0
        return None

    def _unanswered(self, connection: _Connection, error: grpc.RpcError) -> str | None:
        code, where = error.code(), f"TorchServe at {connection.place.target}"
        if code in _NO_TOKEN:
            return f"{where} refuses our token: {first_line(error)}"
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            self._silent += 1
            if self._silent < _SILENT_PINGS and self.down is None:
                return None
        return f"{where} does not answer: {first_line(error)}"

    def _disproved(self, connection: _Connection) -> str | None:
        if (proof := self.proof) is None:
            return None
        try:
            answer = connection.predict(proof.message, timeout=_PROOF_TIMEOUT_S, metadata=connection.metadata)
        except grpc.RpcError as error:
            where = f"TorchServe at {connection.place.target}"
            return f"{where} does not answer this version's golden requests: {first_line(error)}"
        return proof.fault_in(answer)
