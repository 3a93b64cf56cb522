"""Which code a model was trained by."""

import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent


@cache
def code_revision() -> str:
    """The commit of the checkout that runs, with ``-dirty`` when it was changed; the version of an installed package."""
    version = metadata.version("driftwheel")
    if not (_ROOT / ".git").exists():
        return version
    command = ["git", "-C", str(_ROOT), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):  # no git, or a checkout of somebody else's
        return version
