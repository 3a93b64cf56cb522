"""One call with a real client, to see that a server answers, and with what."""

import http.client
from contextlib import closing
from typing import Any

import grpc

from benchmarks.tools.messages import Call


class ProbeError(RuntimeError):
    """A call was not answered, or with an error; the message says how."""


def probe(target: str, call: Call, *, timeout_s: float = 5.0) -> bytes:
    """The answer: over gRPC the bytes of its message, over REST its body.

    Raises:
        ProbeError: The call failed.
    """
    return _post(target, call, timeout_s) if call.rest else _unary(target, call, timeout_s)


def _unary(target: str, call: Call, timeout_s: float) -> bytes:
    with grpc.insecure_channel(target, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        method: Any = channel.unary_unary(call.path)
        try:
            return method(call.message, timeout=timeout_s)
        except grpc.RpcError as error:
            raise ProbeError(f"{target} answers {error.code().name}: {error.details()}") from error


def _post(target: str, call: Call, timeout_s: float) -> bytes:
    with closing(http.client.HTTPConnection(target, timeout=timeout_s)) as connection:
        try:
            connection.request("POST", call.path, call.message, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            body = answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise ProbeError(f"{target} does not answer: {error!r}") from error
    if answer.status != http.client.OK:
        raise ProbeError(f"{target} answers {answer.status}: {body[:300]!r}")
    return body
