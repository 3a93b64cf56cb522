"""Slices of time, and what they hold against arms that are held up together, by turns or each by itself."""

import numpy as np
import pytest

from driftwheel.settings import JudgeSettings
from monitoring.canary.check import needed_alone
from monitoring.canary.collecting import collect_evidence
from monitoring.canary.evidence import RATIO_BOUNDS
from monitoring.canary.latency import log_e_latency, slower_slices
from monitoring.canary.slices import LATENCY_FLOOR_US, SLICE_REQUESTS, SLICE_US, count_ratios, slice_ratios
from tests.monitoring.worlds import RATING, write_sealed

from .arms import ROLLOUT
from .test_evidence import requests

NEEDED = needed_alone("latency", JudgeSettings())


def in_order(control, candidate):
    """Arrays of ``(at_us, latency_us)`` as the arguments of ``slice_ratios``."""
    at_us, latency_us = (np.concatenate(both) for both in zip(control, candidate, strict=True))
    order = np.argsort(at_us, kind="stable")
    is_candidate = np.arange(len(at_us)) >= len(control[0])
    return at_us[order].astype(np.int64), latency_us[order], is_candidate[order]


def steady(latency_us, *, every_us=10_000, offset_us=0):
    return np.arange(len(latency_us)) * every_us + offset_us, np.asarray(latency_us, dtype=np.float64)


def test_a_slice_is_closed_by_time_and_by_requests_of_both_arms():
    fast, slow = (
        steady(np.full(1000, 5000.0), every_us=1000),
        steady(np.full(100, 5000.0), every_us=10_000, offset_us=5),
    )
    at_us, latency_us, is_candidate = in_order(fast, slow)
    ends, ratios = slice_ratios(at_us, latency_us, is_candidate)
    begins = np.concatenate([[0], ends[:-1]])
    assert len(ratios) == len(ends) == 3
    for begin, end in zip(begins, ends, strict=True):
        assert at_us[end] - at_us[begin] >= SLICE_US - 10_000
        assert is_candidate[begin:end].sum() >= SLICE_REQUESTS
        assert (~is_candidate[begin:end]).sum() >= SLICE_REQUESTS
    assert (ratios == 1.0).all()


def test_little_traffic_makes_long_slices_and_an_arm_alone_makes_none():
    rare = steady(np.full(100, 5000.0), every_us=10_000_000)
    ends, _ = slice_ratios(*in_order(rare, rare))
    assert ends.tolist() == [50, 100, 150]
    for alone in ((rare, (np.array([]), np.array([]))), ((np.array([]), np.array([])), rare)):
        assert slice_ratios(*in_order(*alone))[1].tolist() == []


@pytest.mark.parametrize(("requests_in_a_slice", "slow", "is_slower"), [(99, 1, True), (200, 1, False), (200, 2, True)])
def test_one_request_in_a_hundred_has_to_be_slow(requests_in_a_slice, slow, is_slower):
    rows, every_us = 3 * requests_in_a_slice, SLICE_US // requests_in_a_slice
    late = np.where(np.arange(rows) % requests_in_a_slice < slow, 50_000.0, 5000.0)
    _, ratios = slice_ratios(
        *in_order(steady(np.full(rows, 5000.0), every_us=every_us), steady(late, every_us=every_us))
    )
    assert (ratios == (10.0 if is_slower else 1.0)).all()


def test_an_arm_with_more_requests_is_no_slower_for_it():
    """The longest of many is longer than that of few: as many of either arm are compared."""
    rng = np.random.default_rng(0)
    often = steady(rng.lognormal(8.5, 0.5, 240_000), every_us=1000)
    seldom = steady(rng.lognormal(8.5, 0.5, 60_000), every_us=4000)
    for arms in ((often, seldom), (seldom, often)):
        _, ratios = slice_ratios(*in_order(*arms))
        assert len(ratios) > 900
        assert np.mean(ratios > 1) == pytest.approx(0.5, abs=0.06)


def test_latencies_that_nobody_feels_are_equal():
    rows = 300
    at_us = np.arange(rows) * 10_000
    control, candidate = np.full(rows, 0.1 * LATENCY_FLOOR_US), np.full(rows, LATENCY_FLOOR_US)
    assert (slice_ratios(*in_order((at_us, control), (at_us, candidate)))[1] == 1.0).all()
    assert (slice_ratios(*in_order((at_us, control), (at_us, 2 * candidate)))[1] == 2.0).all()


def test_ratios_are_counted_and_read_to_the_candidates_advantage():
    counts = np.array(count_ratios(np.array([0.5, 1.0, 1.005, 1.04, 1.056, 2.0, 99.0])))
    assert counts.sum() == 7
    assert slower_slices(counts, np.array([0.0, 0.05, 1.5, 10.0, 100.0])).tolist() == [5, 3, 1, 1, 0]
    assert slower_slices(np.stack([counts, 2 * counts]), 0.05).tolist() == [3, 6]
    assert RATIO_BOUNDS[0] == 1.0


def held_up(rng, at_us, *, per_s=0.5):
    """Factors of latency at those times: 5 to 20 for 50 to 500 ms now and then."""
    begins = np.sort(rng.random(rng.poisson(per_s * at_us[-1] / 1e6)) * at_us[-1])
    ends = begins + rng.uniform(5e4, 5e5, len(begins))
    last = np.searchsorted(begins, at_us) - 1
    return np.where((last >= 0) & (at_us < ends[last]), rng.uniform(5, 20, len(begins))[last], 1.0)


def release(rng, rows, *, hold_ups="none", slower=1.0):
    """400 requests a second, forty of a user in a row; whose user is of which arm is chance."""
    at_us = np.cumsum(rng.exponential(2500, rows)).astype(np.int64)
    is_candidate = np.repeat(rng.random(rows // 40) < 0.5, 40)
    latency_us = rng.lognormal(8.5, 0.5, rows) * np.where(is_candidate, slower, 1.0)
    if hold_ups == "of both":
        latency_us *= held_up(rng, at_us)
    elif hold_ups == "of each":
        latency_us *= np.where(is_candidate, held_up(rng, at_us), held_up(rng, at_us))
    return at_us, latency_us, is_candidate


def ever_slow(seed, runs, rows, **kind):
    """The share of releases that are aborted at any look, if one looks after every slice."""
    rng, aborted = np.random.default_rng(seed), 0
    for _ in range(runs):
        ratios = slice_ratios(*release(rng, rows, **kind))[1]
        counts = np.cumsum([count_ratios(ratios[i : i + 1]) for i in range(len(ratios))], axis=0)
        aborted += bool((log_e_latency(counts, 0.05) >= NEEDED).any())
    return aborted / runs


@pytest.mark.parametrize("hold_ups", ["none", "of both", "of each"])
def test_equal_latencies_do_not_abort_whatever_holds_the_machine_up(hold_ups):
    assert ever_slow(1, 60, 6000, hold_ups=hold_ups) == 0.0


def test_latencies_at_the_margin_do_not_abort():
    assert ever_slow(2, 40, 6000, slower=1.05) == 0.0


@pytest.mark.parametrize("hold_ups", ["none", "of both"])
def test_slower_requests_are_seen_between_and_during_hold_ups(hold_ups):
    assert ever_slow(3, 20, 20_000, slower=1.5, hold_ups=hold_ups) == 1.0


def test_the_log_of_both_arms_becomes_slices_of_its_answered_requests(tmp_path):
    slow = {"rows": 2, "latency_us": np.full(400, 9000, dtype=np.int32)}
    failed = ["INTERNAL"] * 100 + ["OK"] * 300
    write_sealed(tmp_path, "movies", 1, requests(1, "control", 200))
    write_sealed(tmp_path, "movies", 2, requests(2, "candidate", 200, code=failed, **slow))
    seen = collect_evidence(tmp_path, ROLLOUT, RATING, "rating")
    # 150 answered requests of the candidate, one a second; the last slice of 25 is open.
    assert sum(seen.latency_ratios) == 5
    assert slower_slices(np.array(seen.latency_ratios), np.array([5.0, 10.0])).tolist() == [5, 0]
    assert collect_evidence(tmp_path / "none", ROLLOUT, RATING, "rating").latency_ratios == ()
