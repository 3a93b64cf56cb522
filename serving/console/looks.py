"""The judge's newest look, most of which say nothing new and are not in the ledger.

What is written there is ``monitoring.canary.looks``'s; serving sees the file and not that module.
"""

from pathlib import Path
from typing import Any

import msgspec

LARGEST_LOOK = 1024 * 1024
"""Bytes. A file above it is not read."""


class Look(msgspec.Struct, frozen=True, kw_only=True):
    """The newest look at a model's trial. Both are empty where there is none, or none that can be read."""

    at: str = ""
    payloads: dict[str, Any] = {}
    """As the ledger has them, by version."""


def read_look(folder: Path, model: str) -> Look:
    """The newest look. What cannot be read is left out: the ledger has what was decided."""
    path = folder / f"{model}.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=Look) if path.stat().st_size <= LARGEST_LOOK else Look()
    except (OSError, msgspec.MsgspecError):
        return Look()
