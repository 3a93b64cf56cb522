"""The judge's newest look at each trial, and what of it is worth an entry of the ledger.

A judge that looks every minute sees the same for days. A look is written down when it acts, when it says something new, when
what is known has grown by a tenth, or when an hour has gone by; of the others only the newest is kept.

::

    <looks>/<model>.json
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from driftwheel.errors import DataError
from driftwheel.files import write_atomically
from driftwheel.names import check_name
from driftwheel.rollout import Rollout
from monitoring.canary.several import Judged
from monitoring.segments import moment

GROWTH = 1.1
"""So many times the requests or labels of the last entry are worth another: a line over the trial keeps its shape."""

LONGEST_SILENCE_S = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """The last entry about one version."""

    at: str
    said: tuple[str, ...]
    counts: tuple[int, ...]
    """The candidate's requests and labels then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Looks:
    """The content of a file: the newest look at a model's trial."""

    started_at: str
    """Of the trial."""
    at: str = ""
    payloads: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    """As the ledger has them, by version; the candidate that is named first comes first."""
    written: dict[str, Written] = field(default_factory=dict[str, Written])
    """By version."""

    @property
    def payload(self) -> dict[str, Any]:
        """About the candidate that is named first; empty before the first look."""
        return next(iter(self.payloads.values()), {})

    def is_news(self, judged: Judged, rollout: Rollout, at: str) -> bool:
        """Whether a verdict that does nothing is worth an entry.

        Args:
            at: The time of the look, ISO 8601.
        """
        last = self.written.get(str(judged.version))
        if last is None or last.said != _said(judged, rollout):
            return True
        grown = any(now > GROWTH * then for now, then in zip(_counts(judged), last.counts, strict=True))
        return grown or (moment(at) - moment(last.at)).total_seconds() >= LONGEST_SILENCE_S


def written_down(judged: Judged, rollout: Rollout, at: str) -> Mapping[str, Written]:
    """What ``Looks.written`` holds once a verdict is in the ledger."""
    return {str(judged.version): Written(at=at, said=_said(judged, rollout), counts=_counts(judged))}


def looks_of(folder: Path, rollout: Rollout) -> Looks:
    """The looks at the trial that is going on; none of an earlier one.

    Raises:
        DataError: The file is damaged.
    """
    found = _read(folder, rollout.model)
    return found if found and found.started_at == rollout.started_at else Looks(started_at=rollout.started_at)


def newest_look(folder: Path, model: str) -> Looks | None:
    """The newest look of all; None where the judge has not looked at this model since payloads are kept by version.

    Raises:
        DataError: The file is damaged.
    """
    found = _read(folder, model)
    return found if found and found.payloads else None


def _read(folder: Path, model: str) -> Looks | None:
    path = _path(folder, model)
    try:
        return msgspec.json.decode(path.read_bytes(), type=Looks)
    except FileNotFoundError:
        return None
    except msgspec.MsgspecError as error:
        raise DataError(f"{path} is damaged: {error}", hint="delete it; the ledger has what was decided") from None


def keep_looks(folder: Path, model: str, looks: Looks) -> None:
    """Write the file; a reader sees the old one or the new one."""
    write_atomically(_path(folder, model), msgspec.json.encode(looks))


def _path(folder: Path, model: str) -> Path:
    return folder / f"{check_name(model)}.json"


def _said(judged: Judged, rollout: Rollout) -> tuple[str, ...]:
    """A verdict but for its numbers, which rise from look to look."""
    verdict = judged.verdict
    reasons = (re.sub(r"\d[\d.,]*", "#", reason) for reason in verdict.reasons)
    checks = (f"{check.name}: {check.outcome}" for check in verdict.checks)
    return (verdict.decision, rollout.state, f"step {rollout.step}", *reasons, *checks)


def _counts(judged: Judged) -> tuple[int, int]:
    evidence = judged.evidence
    labels = evidence.candidate.losses.labelled + evidence.shadow.pairs.labelled
    return evidence.candidate_overall.requests, labels
