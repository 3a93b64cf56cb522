"""Versions as the protocols write them."""

from driftwheel.errors import NotFoundError


def parse_version(text: str) -> int:
    """A version from its text.

    Raises:
        NotFoundError: It is not a positive number, so there is no such version.
    """
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise NotFoundError(f"versions are whole numbers, got {text[:40]!r}")
    return int(text)
