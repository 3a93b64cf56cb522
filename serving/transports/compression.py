"""Compressed bodies, both ways: gzip and deflate (RFC 9110, 8.4.1; "deflate" is the zlib format there)."""

import zlib

from driftwheel.errors import InvalidRequestError, TooLargeError, UnsupportedMediaError

SMALLEST_COMPRESSED = 4096
"""Smaller answers go out as they are: the processor time is worth more than the bytes."""

_LEVEL = 1
_WINDOW_BITS = {"gzip": 31, "x-gzip": 31, "deflate": 15}
ENCODINGS = ("gzip", "deflate")


def decompressed(body: bytes, encoding: bytes, limit: int) -> bytes:
    """A request's body without its Content-Encoding.

    Raises:
        UnsupportedMediaError: Another encoding, or more than one.
        InvalidRequestError: The body is not what it claims to be, or is cut short.
        TooLargeError: It has more than ``limit`` bytes once decompressed; no more are made.
    """
    name = encoding.decode("latin-1").strip().lower()
    if name in ("", "identity"):
        return body
    if name not in _WINDOW_BITS:
        raise UnsupportedMediaError(f"bodies may have content-encoding gzip, deflate or identity, got {name[:40]!r}")
    inflater = zlib.decompressobj(wbits=_WINDOW_BITS[name])
    try:
        inflated = inflater.decompress(body, limit + 1)
    except zlib.error as error:
        raise InvalidRequestError(f"the body is not {name}: {error}") from None
    if len(inflated) > limit:
        raise TooLargeError(f"the request body has more than {limit} bytes once decompressed")
    if not inflater.eof:
        raise InvalidRequestError(f"the {name} body is cut short")
    if inflater.unused_data:
        raise InvalidRequestError(f"the {name} body has {len(inflater.unused_data)} bytes after its end")
    return inflated


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


def compressed(body: bytes, encoding: str) -> bytes:
    """A body in one of ``ENCODINGS``, quickly rather than tightly."""
    deflater = zlib.compressobj(_LEVEL, wbits=_WINDOW_BITS[encoding])
    return deflater.compress(body) + deflater.flush()
