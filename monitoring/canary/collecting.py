"""Counting the log: the evidence about a rollout at one look."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from driftwheel.contracts import Arm, Signature, Task
from driftwheel.errors import DataError
from driftwheel.log_layout import shadow_log
from driftwheel.predictions import INPUT_PREFIX, OK, OUTPUT_PREFIX
from driftwheel.rollout import Rollout
from monitoring.canary.evidence import (
    CALLER_FAULTS,
    NOT_FINITE_CODE,
    ArmEvidence,
    Evidence,
    ShadowEvidence,
    count_latencies,
)
from monitoring.canary.hits import count_hits
from monitoring.canary.paired import Agreement, PairedAuc, list_agreement, pair_auc, pair_losses, score_agreement
from monitoring.canary.slices import latency_ratios
from monitoring.canary.unknown import UnknownIds, Vocabularies, count_unknown, vocabulary_columns
from monitoring.losses import LossSums, log_loss, loss, sum_losses

if TYPE_CHECKING:
    import pandas as pd


def collect_evidence(
    log: Path,
    rollout: Rollout,
    signature: Signature,
    task: Task,
    *,
    since: str | None = None,
    until: str | None = None,
    vocabularies: tuple[Vocabularies, Vocabularies] | None = None,
) -> Evidence:
    """Count what the log holds about a rollout that has a candidate.

    Only the arms "control" and "candidate" count, only under the versions on trial, and only from the start of the
    rollout on (or from ``since``, if that is later). What control answered while the candidate had only copies of its
    requests is not compared but row by row. What either arm answered since the candidate got all traffic is not
    compared; labels that come later for what was answered before then are.

    Args:
        vocabularies: Of the stable version and of the candidate; None: who knows which ids is not counted.

    Raises:
        DataError: The rollout has no candidate.
    """
    from monitoring.segments import moment
    from monitoring.windows import read_feedback, read_predictions, with_labels

    if rollout.candidate is None:
        raise DataError(f"the rollout of {rollout.model} has no candidate to collect evidence about")
    begin = max((time for time in (since, rollout.started_at) if time), key=moment, default=None)
    feedback = read_feedback(log, rollout.model, since=begin, until=until)

    def rows_of(root: Path, arm: Arm, version: int) -> "pd.DataFrame":
        rows = read_predictions(
            root, rollout.model, version=version, since=begin, until=until, columns=_columns(signature)
        )
        return with_labels(rows[rows["arm"] == arm], feedback)

    def count(rows: "pd.DataFrame") -> ArmEvidence:
        return _count(rows, signature, task, stepped_at=rollout.stepped_at)

    control = rows_of(log, Arm.CONTROL, rollout.stable)
    candidate = rows_of(log, Arm.CANDIDATE, rollout.candidate)
    shadow = rows_of(shadow_log(log), Arm.SHADOW, rollout.candidate)
    early = _before_the_split(control, rollout)
    late = [_since_all_traffic(rows, rollout) for rows in (control, candidate)]
    compared, tried = control[~late[0] & ~early], candidate[~late[1]]
    asked = _of_both(control, candidate)
    return Evidence(
        model=rollout.model,
        task=task,
        stable_version=rollout.stable,
        candidate_version=rollout.candidate,
        weight=rollout.weight,
        step=rollout.step,
        since=begin or "",
        until=until,
        control=count(compared),
        candidate=count(tried),
        alone=count(candidate[late[1]]),
        shadow=_shadow(control, shadow, count(shadow), count(control[early]), signature, task),
        latency_ratios=latency_ratios(compared, tried),
        unknown=count_unknown(asked, signature, *vocabularies) if vocabularies else UnknownIds(),
    )


def _of_both(control: "pd.DataFrame", candidate: "pd.DataFrame") -> "pd.DataFrame":
    """The rows of both arms that say something about the models."""
    import pandas as pd

    filled = [rows for rows in (control, candidate) if len(rows)]
    rows = pd.concat(filled, ignore_index=True) if filled else control
    return rows[~rows["code"].isin(CALLER_FAULTS)]


def _before_the_split(rows: "pd.DataFrame", rollout: Rollout) -> "pd.Series[bool]":
    """Which rows were answered while the candidate had only copies."""
    if rollout.weight == 0:
        return rows["at"].notna()  # all
    if not rollout.split_at:
        return rows["at"].isna()  # none
    return rows["at"] < _timestamp(rollout.split_at)


def _shadow(
    control: "pd.DataFrame",
    shadow: "pd.DataFrame",
    candidate: ArmEvidence,
    early: ArmEvidence,
    signature: Signature,
    task: Task,
) -> ShadowEvidence:
    """Pair answers to the same request and row."""
    if shadow.empty or control.empty:  # the two logs are written each at its own moment
        return ShadowEvidence(candidate=candidate, control=early)
    score = OUTPUT_PREFIX + signature.outputs[0].name
    twins = shadow[shadow["code"] == OK][["prediction_id", "row", score]]
    scored = control[(control["code"] == OK) & (control["kind"] == "infer")]
    both = scored.merge(twins, on=["prediction_id", "row"], suffixes=("", "_shadow"))
    values = both[[score, f"{score}_shadow"]].to_numpy(dtype=np.float64)
    both = both[np.isfinite(values).all(axis=1)]
    stable, copy = (both[name].to_numpy(dtype=np.float64) for name in (score, f"{score}_shadow"))
    label = both["label"].to_numpy(dtype=np.float64)
    known = np.isfinite(label)
    clusters, _ = both[_cluster_column(signature)].factorize(use_na_sentinel=False)
    return ShadowEvidence(
        candidate=candidate,
        control=early,
        pairs=pair_losses(
            loss(task, copy[known], label[known]), loss(task, stable[known], label[known]), clusters[known]
        ),
        auc=pair_auc(copy[known], stable[known], label[known]) if task == "churn" else PairedAuc(),
        agreement=_with_lists(score_agreement(copy, stable), control, shadow, signature),
    )


def _with_lists(
    agreement: Agreement, control: "pd.DataFrame", shadow: "pd.DataFrame", signature: Signature
) -> Agreement:
    """And how alike the recommendations are of the requests that both answered."""
    items = [INPUT_PREFIX + spec.name for spec in signature.inputs if spec.role == "id"][-1:]
    if not items:
        return agreement
    ranked = [
        rows[(rows["kind"] == "recommend") & (rows["code"] == OK)]
        .sort_values("row")
        .groupby("prediction_id")[items[0]]
        .agg(lambda one: one.dropna().tolist())
        for rows in (control, shadow)
    ]
    shared = ranked[0].index.intersection(ranked[1].index)
    if shared.empty:
        return agreement
    scores = [list_agreement(ranked[0][one], ranked[1][one]) for one in shared]
    overlap, biased = np.mean(scores, axis=0)
    return dataclasses.replace(agreement, lists=len(shared), overlap=float(overlap), rank_biased_overlap=float(biased))


def _since_all_traffic(rows: "pd.DataFrame", rollout: Rollout) -> "pd.Series[bool]":
    """Which rows were answered after the candidate got all traffic. (A server takes a moment to follow a rollout.)"""
    if rollout.weight < 1 or not rollout.stepped_at:
        return rows["at"].isna()  # none
    return rows["at"] >= _timestamp(rollout.stepped_at)


def _columns(signature: Signature) -> list[str]:
    key = [] if signature.key_input is None else [INPUT_PREFIX + signature.key_input]
    return [
        *_REQUEST_COLUMNS,
        *key,
        *vocabulary_columns(signature),
        *(OUTPUT_PREFIX + spec.name for spec in signature.outputs),
    ]


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
        hits=count_hits(rows, signature),
        log_loss=_log_loss(rows, signature) if task == "churn" else None,
        **_scores(rows, signature),
    )


def _scores(rows: "pd.DataFrame", signature: Signature) -> dict[str, Any]:
    """How many requests were scored, and between which bounds."""
    scored = rows[(rows["kind"] == "infer") & (rows["code"] == OK)]
    values = scored[OUTPUT_PREFIX + signature.outputs[0].name].to_numpy(dtype=np.float64)
    values = values[np.isfinite(values)]
    if not len(values):
        return {}
    return {
        "scored": int(scored["prediction_id"].nunique()),
        "asked": len(scored[[name for name in scored.columns if name.startswith(INPUT_PREFIX)]].drop_duplicates()),
        "lowest": float(values.min()),
        "highest": float(values.max()),
    }


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
    losses = loss(task, labelled[output].to_numpy(), labelled["label"].to_numpy())
    finite = np.isfinite(losses)
    clusters, _ = labelled[_cluster_column(signature)].factorize(use_na_sentinel=False)
    return sum_losses(losses[finite], clusters[finite])


def _log_loss(rows: "pd.DataFrame", signature: Signature) -> float | None:
    labelled = rows.dropna(subset=["label", output := OUTPUT_PREFIX + signature.outputs[0].name])
    if labelled.empty:
        return None
    return float(log_loss(labelled[output].to_numpy(), labelled["label"].to_numpy()).mean())


def _cluster_column(signature: Signature) -> str:
    return "prediction_id" if signature.key_input is None else INPUT_PREFIX + signature.key_input
