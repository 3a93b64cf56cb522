"""A request as the front door hands it over."""

from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_to_bytes

Headers = list[tuple[bytes, bytes]]

LIMIT = 64 * 1024
"""The largest request that the server under test reads."""


@dataclass(frozen=True)
class Wire:
    """One request."""

    method: str
    target: bytes
    """The path, percent-encoded or not at all sensible."""
    headers: Headers
    chunks: list[bytes]
    query: bytes = b""
    leaves: bool = False
    """Whether the client goes away before the last chunk."""

    @property
    def is_grpc(self) -> bool:
        """Whether it says so."""
        return any(name == b"content-type" and value.startswith(b"application/grpc") for name, value in self.headers)

    @property
    def scope(self) -> dict[str, Any]:
        """For an ASGI application."""
        return {
            "type": "http",
            "http_version": "2",
            "method": self.method,
            "scheme": "http",
            "path": unquote_to_bytes(self.target).decode("utf-8", "replace"),
            "raw_path": self.target,
            "root_path": "",
            "query_string": self.query,
            "headers": self.headers,
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 2),
            "extensions": {"http.response.trailers": {}},
        }
