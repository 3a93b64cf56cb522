"""Bearer tokens by role, in a file that holds their SHA-256 digests only.

::

    [tokens.alice]
    roles = ["infer", "feedback"]
    sha256 = "9f86d081..."

A token is 256 random bits, so its digest needs neither salt nor stretching: there is nothing to guess.
"""

import hashlib
import os
import re
import secrets
import stat
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path

import msgspec

from driftwheel.errors import ConfigurationError
from driftwheel.files import replaced, waiting_lock

_PREFIX = "dw_"
"""What every token begins with, so that scanners for leaked secrets can know one."""

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_TOO_OPEN = stat.S_IRWXO | stat.S_IWGRP
"""A group may read (Kubernetes gives secrets to a group), nobody else may, and only the owner writes."""

_HEADER = (
    "# Driftwheel's tokens: digests, never the tokens. Written by `driftwheel token`; a running server follows it.\n"
)


class Role(StrEnum):
    """What a token is good for. An admin may do everything; the others only what they are called."""

    INFER = "infer"
    FEEDBACK = "feedback"
    RETRAIN = "retrain"
    CONSOLE = "console"
    ADMIN = "admin"


def parse_roles(names: Iterable[str]) -> frozenset[Role]:
    """Roles by name.

    Raises:
        ConfigurationError: There is no such role.
    """
    try:
        return frozenset(Role(name) for name in names)
    except ValueError as error:
        raise ConfigurationError(f"a role must be one of {', '.join(Role)}: {error}") from None


class Token(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One entry of the file."""

    roles: frozenset[Role]
    sha256: str
    """Hexadecimal, of the token's bytes."""


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    tokens: dict[str, Token] = {}


def check_private(path: Path, what: str) -> None:
    """Refuse a file of secrets that other users can open.

    Raises:
        ConfigurationError: Its mode is too open, or it cannot be looked at.
    """
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError as error:
        raise ConfigurationError(f"{what} {path} cannot be read: {error.strerror}") from None
    if mode & _TOO_OPEN:
        raise ConfigurationError(
            f"{what} {path} can be opened by other users (mode {mode:04o})", hint=f"chmod 600 {path}"
        )


def read_tokens(path: Path) -> dict[str, Token]:
    """The tokens of a file, by name.

    Raises:
        ConfigurationError: It is missing, open to other users, or not such a file; the message names the entry.
    """
    if not path.exists():
        raise ConfigurationError(
            f"there is no token file {path}", hint="driftwheel token new --role infer --name NAME makes one"
        )
    check_private(path, "the token file")
    try:
        tokens = msgspec.toml.decode(path.read_bytes(), type=_File).tokens
    except OSError as error:
        raise ConfigurationError(f"the token file {path} cannot be read: {error.strerror}") from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"the token file {path} cannot be used: {error}") from None
    owners: dict[str, str] = {}
    for name, token in tokens.items():
        if not _DIGEST.fullmatch(token.sha256) or not token.roles:
            fault = "sha256 must be 64 hexadecimal digits (lower case), and roles must name at least one role"
            raise ConfigurationError(f"the token file {path} cannot be used: tokens.{name}: {fault}")
        if (other := owners.setdefault(token.sha256, name)) != name:
            raise ConfigurationError(
                f"the token file {path} cannot be used: tokens.{name} and tokens.{other} are the same token"
            )
    return tokens


def add_token(path: Path, name: str, roles: frozenset[Role]) -> str:
    """Make a token and put its digest into the file.

    Returns:
        The token; it is kept nowhere.

    Raises:
        ConfigurationError: The name is taken or cannot be used, or the file that is there is faulty.
    """
    if not _NAME.fullmatch(name):
        raise ConfigurationError(f"a token's name must be 1 to 64 letters, digits, _ or -, got {name!r}")
    with waiting_lock(_lock_path(path)):
        tokens = read_tokens(path) if path.exists() else {}
        if name in tokens:
            raise ConfigurationError(
                f"there is a token named {name} already", hint=f"driftwheel token revoke {name}, or choose another name"
            )
        secret = _PREFIX + secrets.token_urlsafe(32)
        digest = hashlib.sha256(secret.encode()).hexdigest()
        _write(path, {**tokens, name: Token(roles, digest)})
    return secret


def revoke_token(path: Path, name: str) -> None:
    """Take a token out of the file; a running server refuses it within a second.

    Raises:
        ConfigurationError: There is none of that name.
    """
    with waiting_lock(_lock_path(path)):
        tokens = read_tokens(path)
        if name not in tokens:
            raise ConfigurationError(
                f"there is no token named {name} in {path}; there are: {', '.join(sorted(tokens)) or 'none'}"
            )
        _write(path, {key: token for key, token in tokens.items() if key != name})


def _lock_path(path: Path) -> Path:
    return path.with_name(f".{path.name}.lock")


def _write(path: Path, tokens: dict[str, Token]) -> None:
    with replaced(path) as temporary:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(_HEADER)
            for name, token in sorted(tokens.items()):
                roles = ", ".join(f'"{role}"' for role in sorted(token.roles))
                file.write(f'\n[tokens.{name}]\nroles = [{roles}]\nsha256 = "{token.sha256}"\n')
