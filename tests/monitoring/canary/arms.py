"""Simulated arms for the canary tests."""

import numpy as np

from driftwheel.rollout import Rollout
from monitoring.canary.evidence import LATENCY_BOUNDS_US, ArmEvidence, Evidence, count_latencies
from monitoring.canary.slices import count_ratios, slice_ratios
from monitoring.losses import sum_losses

ROLLOUT = Rollout(
    model="movies",
    stable=1,
    candidate=2,
    weight=0.01,
    state="running",
    started_at="2026-01-01T00:00:00Z",
    stepped_at="2026-01-01T00:00:00Z",
)


NOTHING = ArmEvidence()


def arm(rng, requests, *, errors=0.0, slower=1.0, worse=1.0, labels=None, users=None, **counts):
    """One arm: a share of errors, log-normal latencies around 5 ms, exponential losses of mean 1 in small clusters."""
    labelled = requests if labels is None else labels
    people = max(labelled // 4, 1) if users is None else users
    taste = rng.gamma(4, 0.25, people)
    whose = rng.integers(0, people, labelled)
    losses = rng.exponential(1.0, labelled) * taste[whose] * worse
    failed = int(rng.binomial(requests, errors)) if errors < 1 else requests
    values = {
        "requests": requests,
        "fresh_requests": requests,
        "errors": failed,
        "latency_counts": count_latencies(rng.lognormal(np.log(5000), 0.4, requests - failed) * slower),
        "losses": sum_losses(losses, whose),
    }
    return ArmEvidence(**{**values, **counts})


def evidence(control, candidate, rollout=ROLLOUT, alone=NOTHING):
    return Evidence(
        model=rollout.model,
        task="rating",
        stable_version=1,
        candidate_version=2,
        weight=rollout.weight,
        step=rollout.step,
        since=rollout.started_at,
        control=control,
        candidate=candidate,
        alone=alone,
        latency_ratios=side_by_side(control, candidate),
    )


def side_by_side(control, candidate):
    """The ratios of slices in which both arms' answers come in a hundred a second each, in any order."""
    rng = np.random.default_rng(0)
    values = np.append(LATENCY_BOUNDS_US, 2 * LATENCY_BOUNDS_US[-1])
    arms = [rng.permutation(np.repeat(values, one.latency_counts or 0)) for one in (control, candidate)]
    at_us = np.concatenate([np.arange(len(one)) * 10_000 for one in arms])
    order = np.argsort(at_us, kind="stable")
    is_candidate = np.repeat([False, True], [len(one) for one in arms])
    return count_ratios(slice_ratios(at_us[order], np.concatenate(arms)[order], is_candidate[order])[1])
