"""gzip and zlib, with a bound on what comes out: what HTTP's and gRPC's compression share."""

import zlib

from driftwheel.errors import InvalidRequestError, TooLargeError
from serving.codec import Raw

WINDOW_BITS = {"gzip": 31, "deflate": 15}
"""zlib's names for the two formats."""

_FASTEST = 1


def inflate(packed: Raw, encoding: str, limit: int, *, called: str) -> bytes:
    """Decompress something whole; no more than ``limit`` bytes are made.

    Args:
        encoding: One of ``WINDOW_BITS``.
        called: What it is, for messages: "body".

    Raises:
        InvalidRequestError: It is not what it claims to be, is cut short, or goes on after its end.
        TooLargeError: More would come out.
    """
    inflater = zlib.decompressobj(wbits=WINDOW_BITS[encoding])
    try:
        whole = inflater.decompress(packed, limit + 1)
    except zlib.error as error:
        raise InvalidRequestError(f"the {called} is not {encoding}: {error}") from None
    if len(whole) > limit:
        raise TooLargeError(f"the {called} has more than {limit} bytes once decompressed")
    if not inflater.eof:
        raise InvalidRequestError(f"the {encoding} {called} is cut short")
    if inflater.unused_data:
        raise InvalidRequestError(f"the {encoding} {called} has {len(inflater.unused_data)} bytes after its end")
    return whole


def deflate(content: bytes, encoding: str) -> bytes:
    """Compress, quickly rather than tightly."""
    deflater = zlib.compressobj(_FASTEST, wbits=WINDOW_BITS[encoding])
    return deflater.compress(content) + deflater.flush()
