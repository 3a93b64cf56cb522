"""An ASGI application that reads a gRPC call and answers a fixed one: what the front door allows when nothing is computed.

The last part of the path is the length of the answer's message.
"""

from serving.transports.asgi import Receive, Scope, Send

_START = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"application/grpc")],
    "trailers": True,
}
_TRAILERS = {"type": "http.response.trailers", "headers": [(b"grpc-status", b"0")], "more_trailers": False}
_answers: dict[str, bytes] = {}


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """One call."""
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    path = scope["path"]
    if path not in _answers:
        length = int(path.rpartition("/")[2])
        _answers[path] = b"\0" + length.to_bytes(4, "big") + bytes(length)
    while (await receive()).get("more_body", False):
        pass
    await send(_START)
    await send({"type": "http.response.body", "body": _answers[path]})
    await send(_TRAILERS)
