"""Ids that one version knows and the other does not."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from driftwheel.settings import JudgeSettings
from driftwheel.vocabulary import Vocabulary
from monitoring.canary.check import named
from monitoring.canary.collecting import collect_evidence
from monitoring.canary.evidence import decode_evidence, encode_evidence
from monitoring.canary.guards import GUARD_MARGIN, guards
from monitoring.canary.judge import judge
from monitoring.canary.sequential import log_e_more_often
from monitoring.canary.unknown import UnknownIds, count_unknown
from tests.monitoring.worlds import CHURN, RATING, log_rows, telco, write_sealed

from .arms import ROLLOUT, arm, evidence
from .test_evidence import requests

USERS, ITEMS = Vocabulary(list(range(40))), Vocabulary(list(range(1000)))
ALL = {"user_id": USERS, "item_id": ITEMS}


def test_requests_are_held_against_both_versions():
    rows = requests(1, "control", 100).to_pandas()  # two rows of one user and one item, the number of the request
    half = {"user_id": USERS, "item_id": Vocabulary(list(range(50)))}
    assert count_unknown(rows, RATING, ALL, half) == UnknownIds(requests=100, to_candidate=50)
    assert count_unknown(rows, RATING, half, ALL) == UnknownIds(requests=100, to_stable=50)
    assert count_unknown(rows, RATING, half, half) == UnknownIds(requests=100, to_both=50)
    other = {"user_id": USERS, "item_id": Vocabulary(list(range(50, 1000)))}
    assert count_unknown(rows, RATING, half, other) == UnknownIds(requests=100, to_stable=50, to_candidate=50)
    assert count_unknown(rows.head(0), RATING, ALL, half) == UnknownIds()


def test_the_items_of_a_recommendation_are_the_models_own():
    rows = requests(2, "candidate", 30, rows=1, kind=["recommend"] * 30, item=[5000] * 29 + [None]).to_pandas()
    nobody = {"user_id": Vocabulary([1]), "item_id": ITEMS}
    assert count_unknown(rows, RATING, ALL, nobody) == UnknownIds(requests=30, to_candidate=29)


def test_a_missing_category_is_unknown_to_nobody():
    table = telco().head(200).copy()
    table.loc[table.index[:20], "in_contract"] = None
    rows = log_rows(table, CHURN, arm=["candidate"] * 200).to_pandas()
    names = [spec.name for spec in CHURN.inputs if spec.role != "number"]
    full = {name: Vocabulary(sorted(table[f"in_{name}"].dropna().unique().tolist())) for name in names}
    yearly = {**full, "contract": Vocabulary(["One year", "Two year"])}
    monthly = int((table["in_contract"] == "Month-to-month").sum())
    assert monthly > 0
    assert count_unknown(rows, CHURN, full, yearly) == UnknownIds(requests=200, to_candidate=monthly)


@pytest.mark.parametrize(("known", "decision"), [(1000, "HOLD"), (85, "HOLD"), (40, "ABORT")])
def test_a_spike_aborts_whatever_the_answers_are(tmp_path, known, decision):
    write_sealed(tmp_path, "movies", 1, requests(1, "control", 100))
    write_sealed(tmp_path, "movies", 2, requests(2, "candidate", 100))
    fewer = {"user_id": USERS, "item_id": Vocabulary(list(range(known)))}
    seen = collect_evidence(tmp_path, ROLLOUT, RATING, "rating", vocabularies=(ALL, fewer))
    assert (seen.unknown.requests, seen.unknown.to_candidate) == (200, max(0, 100 - known) * 2)
    assert decode_evidence(encode_evidence(seen)) == seen
    verdict = judge(seen, ROLLOUT, JudgeSettings())
    assert verdict.decision == decision
    assert ("unknown ids" in verdict.summary) is (decision == "ABORT")


def test_what_stable_does_not_know_either_is_nobodys_fault():
    seen = dataclasses.replace(
        evidence(arm(np.random.default_rng(0), 300), arm(np.random.default_rng(1), 300)),
        unknown=UnknownIds(requests=600, to_both=600),
    )
    check = named(guards(seen, JudgeSettings()), "unknown ids")
    assert (check.outcome, check.control, check.candidate, check.difference) == ("fine", 1.0, 1.0, 0.0)


def test_more_within_the_margin_aborts_as_seldom_as_promised():
    rng, alpha = np.random.default_rng(0), 0.05
    looks = np.arange(10, 3000, 10)
    # At the margin: 30% unknown to the candidate alone, 10% to stable alone.
    kinds = rng.choice([1, -1, 0], p=[0.3, 0.1, 0.6], size=(2000, looks[-1]))
    more, fewer = (np.cumsum(kinds == kind, axis=1)[:, looks - 1] for kind in (1, -1))
    crossed = (log_e_more_often(looks, more, fewer, margin=GUARD_MARGIN) >= -np.log(alpha)).any(axis=1)
    assert crossed.mean() <= alpha
    assert log_e_more_often(60, 60, 0, margin=GUARD_MARGIN) > -np.log(0.0002)


def test_a_refused_candidate_aborts_without_a_single_request():
    seen = dataclasses.replace(
        evidence(arm(np.random.default_rng(0), 5), arm(np.random.default_rng(1), 0)), refused="broken"
    )
    verdict = judge(seen, ROLLOUT, JudgeSettings())
    assert (verdict.decision, verdict.reasons[0]) == ("ABORT", "refused at load: broken")


def test_ids_of_an_empty_log_are_no_evidence(tmp_path):
    seen = collect_evidence(tmp_path, ROLLOUT, RATING, "rating", vocabularies=(ALL, ALL))
    assert seen.unknown == UnknownIds()
    assert isinstance(seen.unknown, UnknownIds)
    assert pd.notna(named(guards(seen, JudgeSettings()), "unknown ids").log_e)
