"""One call with a real client, to see that a server answers, and with what."""

from typing import Any

import grpc

from benchmarks.tools.messages import Call


def probe(target: str, call: Call, *, timeout_s: float = 5.0) -> bytes:
    """The bytes of the answer's message.

    Raises:
        grpc.RpcError: The call failed.
    """
    with grpc.insecure_channel(target, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        method: Any = channel.unary_unary(call.path)
        return method(call.message, timeout=timeout_s)
