"""Which compression a body has, and which its answer may have: gzip and deflate (RFC 9110, 8.4.1; "deflate" is the zlib format
there).
"""

from driftwheel.errors import UnsupportedMediaError
from serving.transports.deflate import WINDOW_BITS, inflate

SMALLEST_COMPRESSED = 4096
"""Smaller answers go out as they are: the processor time is worth more than the bytes."""

ENCODINGS = ("gzip", "deflate")


def decompressed(body: bytes, encoding: bytes, limit: int) -> bytes:
    """A request's body without its Content-Encoding.

    Raises:
        UnsupportedMediaError: Another encoding, or more than one.
        InvalidRequestError, TooLargeError: As ``inflate``.
    """
    name = encoding.decode("latin-1").strip().lower().removeprefix("x-")
    if name in ("", "identity"):
        return body
    if name not in WINDOW_BITS:
        raise UnsupportedMediaError(f"bodies may have content-encoding gzip, deflate or identity, got {name[:40]!r}")
    return inflate(body, name, limit, called="request body")


def accepted_encoding(accept: bytes) -> str | None:
    """What an Accept-Encoding header lets us use, gzip first; None for nothing."""
    if not accept:
        return None
    weights = dict(map(_weighted, accept.decode("latin-1").lower().split(",")))
    return next((name for name in ENCODINGS if weights.get(name, weights.get("*", 0.0)) > 0), None)


def _weighted(item: str) -> tuple[str, float]:
    name, _, parameters = item.partition(";")
    key, _, value = parameters.partition("=")
    try:
        return name.strip(), float(value) if key.strip() == "q" else 1.0
    except ValueError:
        return name.strip(), 0.0
