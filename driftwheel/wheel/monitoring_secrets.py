"""Secrets of the monitoring services, made where there are none: Alertmanager's token for the watcher, Grafana's password."""

import hashlib
import os
import secrets
from pathlib import Path

from driftwheel.errors import ConfigurationError
from driftwheel.files import replaced, waiting_lock
from serving.tokens import Role, add_token, read_tokens, revoke_token

TOKEN = "alertmanager/token"  # noqa: S105 (a path)
"""Where the token goes, in the exported folder: ``alertmanager.yml`` names it."""

PASSWORD = "grafana/password"  # noqa: S105 (a path)
"""Where the password of Grafana's admin goes; its image reads it by ``GF_SECURITY_ADMIN_PASSWORD__FILE``."""

_NAME = "alertmanager"
_GROUP_MAY_READ = 0o640
"""Services run as users of their own: whoever may read a secret is given its group, nobody else can open it."""


def ensure_token(folder: Path, token_file: Path) -> bool:
    """See to it that Alertmanager has a token with which the watcher lets it ask for retrains.

    A token that the watcher knows is left as it is. Where one half is missing (a volume was deleted, a first start was cut
    short) the token named ``alertmanager`` is made anew, and the one before is refused from then on.

    Args:
        folder: What ``export_files`` wrote to.
        token_file: The watcher's; made where it is missing.

    Returns:
        Whether it was made.

    Raises:
        ConfigurationError: One of the two files cannot be used.
    """
    path = folder / TOKEN
    with waiting_lock(token_file.with_name(f".{token_file.name}.{_NAME}.lock")):
        known = read_tokens(token_file) if token_file.exists() else {}
        if (text := _read(path)) is not None:
            digest = hashlib.sha256(text.strip().encode()).hexdigest()
            if any(one.sha256 == digest and one.roles & {Role.RETRAIN, Role.ADMIN} for one in known.values()):
                return False
        if _NAME in known:
            revoke_token(token_file, _NAME)
        _write(path, add_token(token_file, _NAME, frozenset({Role.RETRAIN})))
    return True


def ensure_password(folder: Path) -> bool:
    """See to it that there is a password for Grafana's admin; one that is there is left as it is.

    Returns:
        Whether it was made.

    Raises:
        ConfigurationError: The file cannot be read.
    """
    path = folder / PASSWORD
    if _read(path):
        return False
    _write(path, secrets.token_urlsafe(24))
    return True


def _read(path: Path) -> str | None:
    try:
        return path.read_text()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"the secret {path} cannot be read: {error}") from None


def _write(path: Path, secret: str) -> None:
    with replaced(path) as temporary:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _GROUP_MAY_READ)
        with os.fdopen(descriptor, "w") as file:
            file.write(secret + "\n")
