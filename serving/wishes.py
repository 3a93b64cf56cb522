"""What an operator asked of a running server beside its rollouts: versions for pinned calls, models taken out of service.

One small file per model under ``<home>/run``, which every worker of the home follows. It lasts as long as the server: what
is to outlast it belongs into a rollout.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from driftwheel.files import waiting_lock, write_atomically
from driftwheel.names import check_name


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """The content of a wish file."""

    revision: int = 0
    """Rises with every change, and with every "try again"."""
    unloaded: bool = False
    """Whether the model is out of service, whatever its rollout says."""
    versions: tuple[int, ...] = ()
    """Versions that are loaded beside those that the rollout names."""


NOTHING = Wish()


def _path(wishes: Path, model: str) -> Path:
    return wishes / f"{check_name(model)}.json"


def read_wish(wishes: Path, model: str) -> Wish:
    """What is asked of a model.

    Args:
        wishes: The folder of the files.
    """
    try:
        return msgspec.json.decode(_path(wishes, model).read_bytes(), type=Wish)
    except FileNotFoundError:
        return NOTHING


def change_wish(wishes: Path, model: str, change: Callable[[Wish], Wish]) -> Wish:
    """Apply ``change`` to what is asked of a model, and write it with the next revision."""
    path = _path(wishes, model)
    with waiting_lock(path.with_suffix(".lock")):
        current = read_wish(wishes, model)
        changed = replace(change(current), revision=current.revision + 1)
        write_atomically(path, msgspec.json.encode(changed))
    return changed


def drop_wish(wishes: Path, model: str) -> None:
    """Forget what was asked of a model."""
    _path(wishes, model).unlink(missing_ok=True)


def drop_wishes(wishes: Path) -> None:
    """Forget all, when a server starts or ends."""
    shutil.rmtree(wishes, ignore_errors=True)
