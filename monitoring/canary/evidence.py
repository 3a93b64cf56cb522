"""What the judge looks at: counts and sums for each arm of a rollout, taken from the prediction log."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from driftwheel.contracts import Task
from driftwheel.errors import DataError
from monitoring.canary.paired import Agreement, PairedAuc, PairedLosses
from monitoring.canary.unknown import UnknownIds
from monitoring.losses import LossSums

LATENCY_STEPS_PER_DOUBLING = 16
LATENCY_BOUNDS_US: NDArray[np.float64] = 32.0 * 2.0 ** (np.arange(21 * LATENCY_STEPS_PER_DOUBLING + 1) / 16)
"""Upper bounds of the latency buckets in microseconds, 32 us to 67 s in steps of 4.4%; a last bucket holds the rest.
Fixed, so that histograms of different processes, hosts and days add up."""

RATIO_BOUNDS: NDArray[np.float64] = np.power(1.01, np.arange(243))
"""Upper bounds of the buckets of ``latency_ratios``, 1 to 11 in steps of 1%; a last bucket holds the rest."""

NOT_FINITE_CODE = "NOT_FINITE"
"""The log's ``code`` where the server withheld an answer because it was not a number."""

CALLER_FAULTS = frozenset({"INVALID_ARGUMENT", "NOT_FOUND", "UNAUTHENTICATED", "PERMISSION_DENIED", "CANCELLED"})
"""Codes that say nothing about the model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmEvidence:
    """One arm's requests (each counts once, whatever its rows) and labelled rows since the rollout began."""

    requests: int = 0
    fresh_requests: int = 0
    """Of them, those since the rollout's newest step."""
    errors: int = 0
    """Requests that the model failed on."""
    not_finite: int = 0
    """Requests with an output that is NaN, infinite or missing."""
    recommends: int = 0
    """Answered "recommend" requests."""
    empty: int = 0
    """Of them, those without a single item."""
    latency_counts: tuple[int, ...] = ()
    """Answered requests in each bucket of ``LATENCY_BOUNDS_US`` and, last, above them; empty: none."""
    losses: LossSums = field(default_factory=LossSums)
    hits: LossSums = field(default_factory=LossSums)
    """Of recommended lists: 1 where something was taken from one, else 0."""
    log_loss: float | None = None
    """The mean over the labelled rows of a churn model; None: there are none."""
    scored: int = 0
    """Answered requests of "infer"."""
    asked: int | None = None
    """How many different inputs these had; None in evidence from before that was counted."""
    lowest: float | None = None
    """Of all finite scores of these; None: none."""
    highest: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ShadowEvidence:
    """What the candidate answered to copies of control's requests, out of the callers' sight."""

    candidate: ArmEvidence = field(default_factory=ArmEvidence)
    control: ArmEvidence = field(default_factory=ArmEvidence)
    """Control's own answers before the candidate got traffic, while it was only shadowed."""
    pairs: PairedLosses = field(default_factory=PairedLosses)
    auc: PairedAuc = field(default_factory=PairedAuc)
    agreement: Agreement = field(default_factory=Agreement)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What was known about a rollout at one look at it. ``candidate_version`` and ``stable_version`` are on trial.

    ``control`` and ``candidate`` answered side by side, in the same hours, and may be compared. At weight 1 there is no
    control any more: what the candidate has answered since then is ``alone``.
    """

    model: str
    task: Task
    stable_version: int
    candidate_version: int
    weight: float
    step: int
    since: str
    until: str | None = None
    """The time of the look, if it was given; ISO 8601, as ``since``."""
    control: ArmEvidence = field(default_factory=ArmEvidence)
    candidate: ArmEvidence = field(default_factory=ArmEvidence)
    alone: ArmEvidence = field(default_factory=ArmEvidence)
    shadow: ShadowEvidence = field(default_factory=ShadowEvidence)
    unknown: UnknownIds = field(default_factory=UnknownIds)
    """Over the requests of both arms, copies left out."""
    latency_ratios: tuple[int, ...] = ()
    """Slices of time in which both arms answered, by how many times as long as control's slowest requests the candidate's
    took: a histogram over ``RATIO_BOUNDS``. Empty: none, or evidence from before they were counted."""
    refused: str = ""
    """Why a server could not load the candidate, golden requests included; empty: none said so."""

    @property
    def control_overall(self) -> ArmEvidence:
        """Control's counts of the whole rollout, without latencies and losses."""
        return _added(self.control, self.shadow.control)

    @property
    def candidate_overall(self) -> ArmEvidence:
        """The candidate's counts of the whole rollout, shadow included, without latencies and losses."""
        return _added(self.candidate, self.alone, self.shadow.candidate)


def _added(*arms: ArmEvidence) -> ArmEvidence:
    return ArmEvidence(
        requests=sum(arm.requests for arm in arms),
        fresh_requests=sum(arm.fresh_requests for arm in arms),
        errors=sum(arm.errors for arm in arms),
        not_finite=sum(arm.not_finite for arm in arms),
        recommends=sum(arm.recommends for arm in arms),
        empty=sum(arm.empty for arm in arms),
        scored=sum(arm.scored for arm in arms),
        # What is asked in shadow may be asked in traffic again: not a sum.
        asked=max((arm.asked for arm in arms if arm.asked is not None), default=None),
        lowest=min((arm.lowest for arm in arms if arm.lowest is not None), default=None),
        highest=max((arm.highest for arm in arms if arm.highest is not None), default=None),
    )


def encode_evidence(evidence: Evidence) -> dict[str, Any]:
    """Evidence as plain JSON-like values."""
    return msgspec.to_builtins(evidence)


def decode_evidence(payload: Any) -> Evidence:
    """Evidence from what ``encode_evidence`` returned, or from its JSON bytes.

    Raises:
        DataError: It is something else.
    """
    try:
        if isinstance(payload, bytes | str):
            return msgspec.json.decode(payload, type=Evidence)
        return msgspec.convert(payload, Evidence)
    except msgspec.MsgspecError as error:
        raise DataError(f"this is no evidence about a rollout: {error}") from None


def count_latencies(latencies_us: NDArray[Any] | Sequence[float]) -> tuple[int, ...]:
    """The histogram of latencies in microseconds over ``LATENCY_BOUNDS_US``; bucket ``i`` is (bound i-1, bound i]."""
    buckets = np.searchsorted(LATENCY_BOUNDS_US, np.asarray(latencies_us, dtype=np.float64), side="left")
    return tuple(np.bincount(buckets, minlength=len(LATENCY_BOUNDS_US) + 1).tolist())
