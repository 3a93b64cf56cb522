"""Versions that are put away: the ledger says which, and nothing releases them until they are restored."""

import os
import pwd
import socket
from dataclasses import dataclass
from importlib.util import find_spec

from driftwheel.errors import RolloutError
from driftwheel.settings import Settings
from monitoring.ledger import Ledger

ARCHIVED_TAG = "driftwheel.archived"
"""The registry's tag of an archived version; its value is the reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Archived:
    """How a version came to be put away."""

    at: str
    who: str
    reason: str


def archived_versions(settings: Settings, model: str) -> dict[int, Archived]:
    """The versions of a model that are archived now."""
    if not settings.ledger.exists():
        return {}
    found: dict[int, Archived] = {}
    for entry in Ledger(settings.ledger).entries(model, "archive"):
        version = int(entry.payload["version"])
        if entry.payload["archived"]:
            found[version] = Archived(at=entry.at, who=entry.payload["who"], reason=entry.payload["reason"])
        else:
            found.pop(version, None)
    return found


def refuse_archived(settings: Settings, model: str, version: int) -> None:
    """Refuse to release a version that is archived.

    Raises:
        RolloutError: It is; the message says by whom and why.
    """
    if (archived := archived_versions(settings, model).get(version)) is not None:
        because = f": {archived.reason}" if archived.reason else ""
        raise RolloutError(
            f"version {version} of {model!r} was archived by {archived.who} on {archived.at[:10]}{because}",
            hint=f"driftwheel models restore {model} {version}, or release another version",
        )


def mark_archived(settings: Settings, model: str, version: int, reason: str | None) -> None:
    """Make the registry's tag of a version say what the ledger says; None: it is not archived."""
    from training.mlflow_store import is_empty

    if is_empty(settings) or find_spec("mlflow") is None:
        return
    from training.registry import Registry

    registry = Registry(settings)
    if version not in {info.version for info in registry.versions(model)}:
        return
    if reason is None:
        registry.delete_tag(model, version, ARCHIVED_TAG)
    else:
        registry.set_tag(model, version, ARCHIVED_TAG, reason or "yes")


def whoami() -> str:
    """Who runs this process, and where: ``user@host``."""
    try:
        user = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container's number without a name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"
