"""What the canary's benchmarks take for granted."""

import numpy as np
import onnxruntime as ort

from benchmarks.canary import churn, judging
from benchmarks.canary.slow import delaying_nodes
from benchmarks.canary.streams import World, looks
from benchmarks.models import USERS, random_weights, scoring_graph
from monitoring.canary.latency import slower_slices
from monitoring.canary.paired import pair_auc
from monitoring.canary.slices import slice_ratios


def test_areas_of_all_looks_are_what_the_judge_gets_at_each() -> None:
    release = churn.draw(np.random.default_rng(3), 600, worse=True)
    ends = np.array([40, 200, 600])
    for end, weighed in zip(ends, churn.paired_areas(release, ends), strict=True):
        judged = pair_auc(release.candidate[:end], release.stable[:end], release.label[:end])
        assert (weighed.positives, weighed.negatives) == (judged.positives, judged.negatives)
        for name in ("candidate", "control", "variance"):
            np.testing.assert_allclose(getattr(weighed, name), getattr(judged, name), rtol=1e-12)


def test_a_worse_churn_model_is_aborted_and_an_equal_one_is_not() -> None:
    shape = {"releases": 3, "looks": 10, "per_look": 1000}
    worse = churn.run(np.random.default_rng(0), worse=True, **shape)
    assert (worse.aborted_at > 0).all()
    assert len(worse.checks) == 3
    assert worse.judged >= 3
    equal = churn.run(np.random.default_rng(0), worse=False, **shape)
    assert not equal.aborted_at.any()
    assert abs(np.mean(equal.areas)) < 0.005
    assert np.mean(worse.areas) > 0.01


def test_bursts_hold_both_arms_up_and_abort_no_equal_release() -> None:
    shape = {"releases": 20, "count": 10, "per_look": 200}
    seen = list(looks(World("bursts", errors=(0.0, 0.0), bursts=True), np.random.default_rng(0), **shape))
    assert [look.histograms.sum() for look in seen] == [2 * 20 * 200 * (n + 1) for n in range(10)]
    slices = seen[-1].ratios.sum(axis=1)
    assert (slices > 25).all()
    assert (slices <= 2000 / 25).all()
    outcome = judging.run(iter(seen), releases=20, rng=np.random.default_rng(1), sample=0.1)
    assert not outcome.aborted_at.any()
    assert outcome.judged > 0
    slow = seen[-1].histograms[..., 200:].sum(axis=-1) / 2000
    assert (np.abs(slow[0] - slow[1]) < 0.1).all()


def test_drawn_slices_are_as_simulated_request_by_request() -> None:
    """Requests that come a hundred a second in each arm, and how often the slower arm loses a slice."""
    rng, releases = np.random.default_rng(0), 40
    *_, drawn = looks(World("slower", slower=1.25), rng, releases=releases, count=4, per_look=500)
    assert drawn.ratios.sum() == releases * 80
    at_us = np.repeat(np.arange(80_000) * 10_000, 2)
    latency_us = rng.lognormal(np.log(5000), 0.5, 160_000) * np.tile([1.0, 1.25], 80_000)
    _, ratios = slice_ratios(at_us, latency_us, np.tile([False, True], 80_000))
    simulated = np.mean(ratios > 1.06)
    assert abs(slower_slices(drawn.ratios.sum(axis=0), 0.06) / drawn.ratios.sum() - simulated) < 0.04


def test_what_delays_a_candidate_changes_no_score() -> None:
    weights = random_weights(np.random.default_rng(0))
    slow = dict(weights)
    nodes = delaying_nodes(slow, products=3)
    pairs = {"user_index": np.arange(USERS + 1), "item_index": np.arange(USERS + 1)}
    plain, delayed = (
        ort.InferenceSession(graph, providers=["CPUExecutionProvider"]).run(None, pairs)[0]
        for graph in (scoring_graph(weights), scoring_graph(slow, nodes))
    )
    np.testing.assert_array_equal(plain, delayed)
