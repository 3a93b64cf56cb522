"""What the judge looks at: counts and sums for each arm of a rollout, taken from the prediction log."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from driftwheel.contracts import Arm, Signature, Task
from driftwheel.errors import DataError
from driftwheel.predictions import INPUT_PREFIX, OK, OUTPUT_PREFIX
from driftwheel.rollout import Rollout
from monitoring.losses import LossSums, loss, sum_losses

if TYPE_CHECKING:
    import pandas as pd

LATENCY_STEPS_PER_DOUBLING = 16
LATENCY_BOUNDS_US: NDArray[np.float64] = 32.0 * 2.0 ** (np.arange(21 * LATENCY_STEPS_PER_DOUBLING + 1) / 16)
"""Upper bounds of the latency buckets in microseconds, 32 us to 67 s in steps of 4.4%; a last bucket holds the rest.
Fixed, so that histograms of different processes, hosts and days add up."""

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

    @property
    def candidate_overall(self) -> ArmEvidence:
        """The candidate's counts of the whole rollout, without latencies and losses."""
        arms = (self.candidate, self.alone)
        return ArmEvidence(
            requests=sum(arm.requests for arm in arms),
            fresh_requests=sum(arm.fresh_requests for arm in arms),
            errors=sum(arm.errors for arm in arms),
            not_finite=sum(arm.not_finite for arm in arms),
            recommends=sum(arm.recommends for arm in arms),
            empty=sum(arm.empty for arm in arms),
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


def collect_evidence(
    log: Path,
    rollout: Rollout,
    signature: Signature,
    task: Task,
    *,
    since: str | None = None,
    until: str | None = None,
) -> Evidence:
    """Count what the log holds about a rollout that has a candidate.

    Only the arms "control" and "candidate" count, only under the versions on trial, and only from the start of the
    rollout on (or from ``since``, if that is later). What either arm answered since the candidate got all traffic is not
    compared; labels that come later for what was answered before then are.

    Raises:
        DataError: The rollout has no candidate.
    """
    from monitoring.segments import moment
    from monitoring.windows import read_feedback, read_predictions, with_labels

    if rollout.candidate is None:
        raise DataError(f"the rollout of {rollout.model} has no candidate to collect evidence about")
    begin = max((time for time in (since, rollout.started_at) if time), key=moment, default=None)
    feedback = read_feedback(log, rollout.model, since=begin, until=until)
    compared: dict[Arm, ArmEvidence] = {}
    alone: dict[Arm, ArmEvidence] = {}
    for arm, version in ((Arm.CONTROL, rollout.stable), (Arm.CANDIDATE, rollout.candidate)):
        rows = read_predictions(
            log, rollout.model, version=version, since=begin, until=until, columns=_columns(signature)
        )
        rows = with_labels(rows[rows["arm"] == arm], feedback)
        late = _since_all_traffic(rows, rollout)
        compared[arm] = _count(rows[~late], signature, task, stepped_at=rollout.stepped_at)
        alone[arm] = _count(rows[late], signature, task, stepped_at=rollout.stepped_at)
    return Evidence(
        model=rollout.model,
        task=task,
        stable_version=rollout.stable,
        candidate_version=rollout.candidate,
        weight=rollout.weight,
        step=rollout.step,
        since=begin or "",
        until=until,
        control=compared[Arm.CONTROL],
        candidate=compared[Arm.CANDIDATE],
        alone=alone[Arm.CANDIDATE],
    )


def _since_all_traffic(rows: "pd.DataFrame", rollout: Rollout) -> "pd.Series[bool]":
    """Which rows were answered after the candidate got all traffic. (A server takes a moment to follow a rollout.)"""
    if rollout.weight < 1 or not rollout.stepped_at:
        return rows["at"].isna()  # none
    return rows["at"] >= _timestamp(rollout.stepped_at)


def _columns(signature: Signature) -> list[str]:
    key = [] if signature.key_input is None else [INPUT_PREFIX + signature.key_input]
    ids = [INPUT_PREFIX + spec.name for spec in signature.inputs if spec.role == "id"]
    return [*_REQUEST_COLUMNS, *key, *ids, *(OUTPUT_PREFIX + spec.name for spec in signature.outputs)]


_REQUEST_COLUMNS = ("arm", "kind", "code", "latency_us")


def _count(rows: "pd.DataFrame", signature: Signature, task: Task, *, stepped_at: str) -> ArmEvidence:
    rows = rows[~rows["code"].isin(CALLER_FAULTS)]
    if rows.empty:
        return ArmEvidence()
    requests = _requests(rows, signature)
    answered = requests[~requests["failed"]]
    return ArmEvidence(
        requests=len(requests),
        fresh_requests=int((requests["at"] >= _timestamp(stepped_at)).sum()) if stepped_at else len(requests),
        errors=int(requests["failed"].sum()),
        not_finite=int(requests["not_finite"].sum()),
        recommends=int(answered["recommend"].sum()),
        empty=int(answered["empty"].sum()),
        latency_counts=count_latencies(answered["latency_us"].to_numpy()) if len(answered) else (),
        losses=_losses(rows, signature, task),
    )


def _timestamp(time: str) -> "pd.Timestamp":
    import pandas as pd

    from monitoring.segments import moment

    return pd.Timestamp(moment(time))


def _requests(rows: "pd.DataFrame", signature: Signature) -> "pd.DataFrame":
    """One row for each request: at, latency_us, failed, not_finite, recommend, empty.

    An empty recommendation is logged as a single row whose last id input (the item) and outputs are missing.
    """
    outputs = rows[[OUTPUT_PREFIX + spec.name for spec in signature.outputs]]
    finite = outputs.apply(np.isfinite).all(axis=1)
    items = [INPUT_PREFIX + spec.name for spec in signature.inputs if spec.role == "id"][-1:]
    no_item = rows[items].isna().any(axis=1) & (rows["kind"] == "recommend")
    answered = rows["code"] == OK
    flags = rows[["prediction_id", "at", "latency_us"]].assign(
        failed=~answered,
        not_finite=(answered & ~no_item & ~finite) | (rows["code"] == NOT_FINITE_CODE),
        recommend=rows["kind"] == "recommend",
        empty=answered & no_item,
    )
    grouped = flags.groupby("prediction_id", sort=False)
    how = {"at": "min", "latency_us": "max", "failed": "any", "not_finite": "any", "recommend": "any", "empty": "all"}
    return grouped.agg(how)


def _losses(rows: "pd.DataFrame", signature: Signature, task: Task) -> LossSums:
    """Losses of the first output over the rows with a label, in clusters of users, or of requests without a key."""
    output = OUTPUT_PREFIX + signature.outputs[0].name
    labelled = rows.dropna(subset=["label", output])
    key = "prediction_id" if signature.key_input is None else INPUT_PREFIX + signature.key_input
    losses = loss(task, labelled[output].to_numpy(), labelled["label"].to_numpy())
    finite = np.isfinite(losses)
    clusters, _ = labelled[key].factorize(use_na_sentinel=False)
    return sum_losses(losses[finite], clusters[finite])
