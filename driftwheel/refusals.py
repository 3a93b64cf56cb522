"""What servers refused to put on trial: written by the server that tried, read by the judge. One small file per version.

A candidate that cannot be loaded gets no request, so that the log has nothing against it. This is how the judge hears of it.
"""

from dataclasses import dataclass
from pathlib import Path

import msgspec

from driftwheel.errors import DataError
from driftwheel.files import write_atomically
from driftwheel.names import check_name
from driftwheel.rollout import Rollout


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """The content of a refusal file."""

    started_at: str
    """Of the trial; what was refused in an earlier one may have been put right since."""
    reason: str


def _path(refusals: Path, rollout: Rollout) -> Path:
    return refusals / check_name(rollout.model) / f"{rollout.candidate}.json"


def write_refusal(refusals: Path, rollout: Rollout, reason: str) -> None:
    """Say why the candidate of a rollout cannot be loaded."""
    refusal = Refusal(started_at=rollout.started_at, reason=reason)
    write_atomically(_path(refusals, rollout), msgspec.json.encode(refusal))


def drop_refusal(refusals: Path, rollout: Rollout) -> None:
    """The candidate of a rollout has been loaded after all."""
    _path(refusals, rollout).unlink(missing_ok=True)


def read_refusal(refusals: Path, rollout: Rollout) -> str | None:
    """Why a server refused the candidate of this rollout in this trial; None where none did.

    Raises:
        DataError: The file is damaged.
    """
    path = _path(refusals, rollout)
    try:
        refusal = msgspec.json.decode(path.read_bytes(), type=Refusal)
    except FileNotFoundError:
        return None
    except msgspec.MsgspecError as error:
        raise DataError(f"{path} is damaged: {error}") from None
    return refusal.reason if refusal.started_at == rollout.started_at else None
