"""Deleting snapshots of customers that need not be kept any longer: by age and by size, oldest first.

What a row is answered with is never older than ``max_age_s``. So a snapshot may go once it is older than that for every row
that a training set shall still have: training sets of the last ``keep_days`` stay as they are, to the last bit. The newest
snapshot stays in any case, and so does all that is fresh now.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from driftwheel.errors import BusyError
from driftwheel.feature_store import FeatureSettings
from driftwheel.files import exclusive_lock, sync_folder
from training.features.offline import CUSTOMERS, snapshot_moment, snapshots, snapshots_lock

_MIB = 2**20


@dataclass(frozen=True, slots=True)
class Expired:
    """What was deleted, and what could not be."""

    snapshots: int = 0
    bytes: int = 0
    excess_bytes: int = 0
    """What the snapshots still hold beyond their limit: all of them are fresh."""
    postponed: bool = False
    """Somebody reads the snapshots: the next build deletes."""


def expire(folder: Path, settings: FeatureSettings, *, now: datetime) -> Expired:
    """Delete what is too old, and of what is too much the oldest. The caller holds the repository's lock.

    Args:
        folder: The repository.
        now: The present. Snapshots of moments that have not come yet make nothing old.

    Raises:
        OSError: One could not be deleted; those before it are gone.
    """
    if settings.keep_days is None and settings.keep_mib is None:
        return Expired()
    found = [(path, path.stat().st_size) for path in snapshots(folder)]
    going, excess = _outlived(found, settings, now)
    try:
        if going:
            _delete(folder, going)
    except BusyError:
        return Expired(postponed=True)
    return Expired(len(going), sum(size for path, size in found if path in going), excess)


def _outlived(found: list[tuple[Path, int]], settings: FeatureSettings, now: datetime) -> tuple[list[Path], int]:
    """The snapshots to delete, oldest first, and the bytes that are too many all the same.

    Args:
        found: Every snapshot with its size in bytes, oldest first.
    """
    fresh_from = now - timedelta(seconds=settings.max_age_s)
    keep_from = None if settings.keep_days is None else fresh_from - timedelta(days=settings.keep_days)
    most = None if settings.keep_mib is None else settings.keep_mib * _MIB
    excess = 0 if most is None else sum(size for _, size in found) - most
    going: list[Path] = []
    named = [(path, size, moment) for path, size in found if (moment := snapshot_moment(path)) is not None]
    for path, size, moment in named[:-1]:
        too_old = keep_from is not None and moment < keep_from
        if too_old or (excess > 0 and moment < fresh_from):
            going.append(path)
            excess -= size
    return going, max(excess, 0)


def _delete(folder: Path, going: list[Path]) -> None:
    with exclusive_lock(snapshots_lock(folder), purpose="work on the snapshots of customers"):
        for path in going:
            path.unlink()
        sync_folder(folder / CUSTOMERS)
