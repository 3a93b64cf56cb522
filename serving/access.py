"""Who may call what: bearer tokens by role, from a file that is followed while the server runs.

What it costs a call: one SHA-256 of the header and one dictionary lookup, under a microsecond; without a token
file, nothing.

Timing: a token is compared by its digest (``hmac.compare_digest``, with every token, whichever fits). What was found
valid is remembered under the SHA-256 of the whole header; how long that lookup takes depends on a digest that nobody can
steer without knowing the token.
"""

import hashlib
import hmac
import time
from collections.abc import Callable
from pathlib import Path

import structlog

from driftwheel.errors import ConfigurationError, PermissionDeniedError, UnauthenticatedError
from serving.tokens import Role, Token, read_tokens

__all__ = ["Access", "Role"]

_log = structlog.get_logger()

_LOOK_EVERY_S = 1.0
"""How often the file is looked at, at most: what a revoked token may still do takes no longer."""

_MOST_SEEN = 1024
"""Headers remembered as valid. One token can be written in many ways (``bearer``, blanks), so there must be a bound."""


class Access:
    """The guard that transports ask before they read a body.

    Without a token file inference and feedback are open to everybody; admin methods and asking for retrains are off.

    Args:
        token_file: The file; None for none.
        clock: Monotonic seconds.

    Raises:
        ConfigurationError: The file cannot be used.
    """

    def __init__(self, token_file: Path | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._file = token_file
        self._clock = clock
        self._seen: dict[bytes, frozenset[Role]] = {}
        self._known: list[tuple[bytes, frozenset[Role]]] = []
        if token_file is not None:
            self._stamp = _stamp(token_file)
            self._known = _by_digest(read_tokens(token_file))
            self._look_again = clock() + _LOOK_EVERY_S

    def require(self, role: Role | None, authorization: bytes) -> None:
        """Let a call pass.

        Args:
            role: What the call needs; None is open to everybody.
            authorization: The raw header of that name, or nothing.

        Raises:
            UnauthenticatedError: No token came, or one that is not in the file.
            PermissionDeniedError: The token is for something else; or admin is asked for, and there is no token file.
        """
        if role is None:
            return
        if self._file is None:
            if role in {Role.ADMIN, Role.RETRAIN}:
                raise PermissionDeniedError(
                    f"{role} methods are off, as the server has no token file: make a token with "
                    f"`driftwheel token new --role {role} --name NAME` and start the server again"
                )
            return
        if self._clock() >= self._look_again:
            self._follow(self._file)
        roles = self._seen.get(hashlib.sha256(authorization).digest()) or self._check(authorization)
        if role not in roles and Role.ADMIN not in roles:
            raise PermissionDeniedError(
                f"this call needs a token for {role}, this one is for {', '.join(sorted(roles))}"
            )

    def _check(self, authorization: bytes) -> frozenset[Role]:
        scheme, _, token = authorization.partition(b" ")
        if scheme.lower() != b"bearer":
            raise UnauthenticatedError("this call needs a token: send the header 'authorization: Bearer TOKEN'")
        digest = hashlib.sha256(token.strip()).digest()
        found = [roles for known, roles in self._known if hmac.compare_digest(known, digest)]
        if not found:
            raise UnauthenticatedError("the token is not known")
        if len(self._seen) >= _MOST_SEEN:
            self._seen.clear()
        self._seen[hashlib.sha256(authorization).digest()] = found[0]
        return found[0]

    def _follow(self, path: Path) -> None:
        """Take the file anew if it has changed; a faulty one leaves the tokens as they were, and is logged once."""
        self._look_again = self._clock() + _LOOK_EVERY_S
        stamp = _stamp(path)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._known = _by_digest(read_tokens(path))
        except ConfigurationError as error:
            _log.error(
                "tokens.refused", error=error.message, hint=error.hint, effect="the tokens read before stay valid"
            )
            return
        self._seen.clear()
        _log.info("tokens.loaded", path=str(path), tokens=len(self._known))


def _by_digest(tokens: dict[str, Token]) -> list[tuple[bytes, frozenset[Role]]]:
    return [(bytes.fromhex(token.sha256), token.roles) for token in tokens.values()]


def _stamp(path: Path) -> tuple[int, ...] | None:
    """What changes when the file does; None where it is missing."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino
