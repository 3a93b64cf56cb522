"""Versions as the protocols write them, and the headers that say which one answers."""

from driftwheel.contracts import Arm
from driftwheel.errors import InvalidRequestError, NotFoundError

ARM_HEADER = b"x-driftwheel-arm"
"""Of HTTP and gRPC: the arm or the version that is to answer, whatever the split says."""

ROUTING_KEY_HEADER = b"x-driftwheel-routing-key"
"""Of HTTP and gRPC: what the split hashes in place of the user's id."""

Pin = int | Arm
"""What a caller may ask for: a version by its number, or whichever version an arm has."""

_ARMS = {arm.encode(): arm for arm in (Arm.CANDIDATE, Arm.CONTROL, Arm.STABLE)}


def parse_version(text: str) -> int:
    """A version from its text.

    Raises:
        NotFoundError: It is not a positive number, so there is no such version.
    """
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise NotFoundError(f"versions are whole numbers, got {text[:40]!r}")
    return int(text)


def parse_pin(value: bytes) -> Pin:
    """What the header ``x-driftwheel-arm`` asks for.

    Raises:
        InvalidRequestError: It names no arm that can be asked for, and is no number.
    """
    if (arm := _ARMS.get(value)) is not None:
        return arm
    if value.isdigit() and len(value) < 10:
        return int(value)
    raise InvalidRequestError(
        f"header x-driftwheel-arm must be candidate, control, stable or a version, got {value.decode('latin-1')[:40]!r}"
    )
