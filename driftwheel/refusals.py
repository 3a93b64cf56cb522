"""What servers refused to put on trial: written by the server that tried, read by the judge. One small file per version.

A candidate that cannot be loaded gets no request, so that the log has nothing against it. This is how the judge hears of it.

::

    <refusals>/<model>/<version>.json          what servers of this home say
    <refusals>/<model>/<version>/<host>.json   what servers of homes that follow this one say (``driftwheel fleet``)
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from driftwheel.errors import DataError
from driftwheel.files import TEMPORARY_PREFIX, write_atomically
from driftwheel.names import check_name
from driftwheel.rollout import Rollout


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """The content of a refusal file."""

    started_at: str
    """Of the trial; what was refused in an earlier one may have been put right since."""
    reason: str


def write_refusal(refusals: Path, rollout: Rollout, reason: str) -> None:
    """Say why the candidate of a rollout cannot be loaded."""
    refusal = Refusal(started_at=rollout.started_at, reason=reason)
    write_atomically(_path(refusals, rollout), encode_refusal(refusal))


def drop_refusal(refusals: Path, rollout: Rollout) -> None:
    """The candidate of a rollout has been loaded after all."""
    _path(refusals, rollout).unlink(missing_ok=True)


def read_refusal(refusals: Path, rollout: Rollout) -> str | None:
    """Why a server, of this home or of one that follows it, refused the candidate of this rollout in this trial; None where
    none did.

    Raises:
        DataError: A file is damaged.
    """
    if (own := own_refusal(refusals, rollout)) is not None:
        return own.reason
    told = list(_told_by_hosts(refusals, rollout))
    if not told:
        return None
    host, reason = told[0]
    others = f" and {len(told) - 1} more" if len(told) > 1 else ""
    return f"{reason} (on {host}{others})"


def own_refusal(refusals: Path, rollout: Rollout) -> Refusal | None:
    """What servers of this home itself say of the candidate in this trial; None where none refused it.

    Raises:
        DataError: The file is damaged.
    """
    return _of_this_trial(_path(refusals, rollout), rollout)


def encode_refusal(refusal: Refusal) -> bytes:
    """What ``decode_refusal`` reads."""
    return msgspec.json.encode(refusal)


def decode_refusal(content: bytes, *, source: str) -> Refusal:
    """A refusal from the bytes of its file.

    Args:
        source: Names the file in the error.

    Raises:
        DataError: It is damaged.
    """
    try:
        return msgspec.json.decode(content, type=Refusal)
    except msgspec.MsgspecError as error:
        raise DataError(f"{source} is damaged: {error}") from None


def host_refusal_path(refusals: Path, model: str, version: int, host: str) -> Path:
    """Where a home keeps what a host that follows it refused."""
    return refusals / check_name(model) / str(version) / f"{host}.json"


def _path(refusals: Path, rollout: Rollout) -> Path:
    return refusals / check_name(rollout.model) / f"{rollout.candidate}.json"


def _told_by_hosts(refusals: Path, rollout: Rollout) -> Iterator[tuple[str, str]]:
    """Hosts, in order, and their reasons."""
    for path in sorted(_path(refusals, rollout).with_suffix("").glob("*.json")):
        if path.name.startswith(TEMPORARY_PREFIX):
            continue
        if (refusal := _of_this_trial(path, rollout)) is not None:
            yield path.stem, refusal.reason


def _of_this_trial(path: Path, rollout: Rollout) -> Refusal | None:
    try:
        refusal = decode_refusal(path.read_bytes(), source=str(path))
    except FileNotFoundError:
        return None
    return refusal if refusal.started_at == rollout.started_at else None
