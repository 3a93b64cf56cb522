"""Servers that answer as a test tells them: a real grpcio server and a real HTTP server, of one list of answers."""

from collections import deque
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import grpc


@dataclass
class Seen:
    """A request, as the server saw it."""

    path: str
    headers: dict[str, str]
    timeout_s: float | None = None


@dataclass
class Script:
    """The answers to come, in order, and the requests that came.

    An answer is bytes, an error (gRPC's code, or HTTP's status; a message; headers), or None: cut the connection (HTTP).
    """

    answers: deque[Any]
    seen: list[Seen] = field(default_factory=list)
    target: str = ""


@contextmanager
def grpc_server(*answers: Any, credentials: grpc.ServerCredentials | None = None, port: int = 0) -> Generator[Script]:
    script = Script(deque(answers))

    def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
        headers = {key: str(value) for key, value in context.invocation_metadata()}
        script.seen.append(Seen(path="", headers=headers, timeout_s=context.time_remaining()))
        given = script.answers.popleft()
        if isinstance(given, bytes):
            return given
        code, message, trailers = given
        context.set_trailing_metadata(tuple(trailers.items()))
        context.abort(code, message)
        raise AssertionError

    class Handler(grpc.GenericRpcHandler):
        def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
            del handler_call_details
            return grpc.unary_unary_rpc_method_handler(answer)

    server = grpc.server(ThreadPoolExecutor(2), handlers=[Handler()])
    if credentials is None:
        port = server.add_insecure_port(f"127.0.0.1:{port}")
    else:
        port = server.add_secure_port(f"127.0.0.1:{port}", credentials)
    script.target = f"127.0.0.1:{port}"
    server.start()
    try:
        yield script
    finally:
        server.stop(0).wait()


@contextmanager
def http_server(*answers: Any, tls: Any = None) -> Generator[Script]:
    script = Script(deque(answers))

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            script.seen.append(Seen(self.path, {key.lower(): value for key, value in self.headers.items()}))
            given = script.answers.popleft()
            if given is None:
                self.close_connection = True
                return
            status, body, headers = (200, given, {}) if isinstance(given, bytes) else given
            self.send_response(status)
            for name, value in {"content-length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)
            self.close_connection = headers.get("connection") == "close"

        def log_message(self, *words: object) -> None:
            """Say nothing."""

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            """A refused handshake is the test's business."""

    with Server(("127.0.0.1", 0), Handler) as server:
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        script.target = f"127.0.0.1:{server.server_address[1]}"
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield script
        finally:
            server.shutdown()
            thread.join()
