"""What the canary's benchmarks take for granted."""

import numpy as np
import onnxruntime as ort

from benchmarks.canary import churn
from benchmarks.canary.slow import delaying_nodes
from benchmarks.models import USERS, random_weights, scoring_graph
from monitoring.canary.paired import pair_auc


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
