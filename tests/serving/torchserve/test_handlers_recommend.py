"""What the handlers recommend, beside the search of our own engine."""

import json
import sys

import numpy as np
import pytest

from serving.recommendation.questions import Question
from serving.recommendation.recommender import Recommender, read_recommender
from tests.serving.torchserve.in_worker import REST

pytest.importorskip("ts", reason="needs torchserve")


@pytest.fixture(scope="module")
def ours(bundles) -> Recommender:
    bundle = bundles["films", 1]
    return read_recommender(bundle.folder, bundle.vocabularies(), threads=1, label="ours")


@pytest.mark.parametrize("tile", [32_768, 128])
@pytest.mark.parametrize(
    "asked",
    [
        {"k": 10},
        {"k": 1},
        {"k": 1000},
        {"k": 30, "exclude": [*range(1, 400), 5000]},
        {"k": 5, "candidates": [5, 900, 44, 44, 7777]},
        {"k": 5, "candidates": []},
        {"k": 7, "ratings": [{"item_id": 3, "rating": 5.0}, {"item_id": 9, "rating": 1}, {"item_id": 5555, "rating": 1}]},
        {"k": 7, "ratings": [{"item_id": item, "rating": 0.5 + item % 9 / 2} for item in range(1, 60)]},
        {"k": 7, "candidates": [4, 5, 6], "ratings": [{"item_id": 5, "rating": 4.5}]},
    ],
)  # fmt: skip
def test_the_same_items_with_the_same_scores(films, ours, asked, tile, monkeypatch) -> None:
    monkeypatch.setattr(sys.modules["driftwheel_recommend"], "_TILE_ITEMS", tile)
    users = [1, 2, 77, 300, 987_654]
    ratings = asked.get("ratings", [])
    others = {key: value for key, value in asked.items() if key in ("k", "exclude", "candidates")}
    rated = {"rated": [r["item_id"] for r in ratings], "ratings": [r["rating"] for r in ratings]}
    queries = [ours.encoder.query(Question(user=user, **others, **rated), "") for user in users]
    (expected,) = ours([queries])
    results = films.json({"users": [{"user_id": user, **asked} for user in users]})["results"]
    for user, mine, theirs in zip(users, results, expected, strict=True):
        assert (mine["user_id"], mine["source"]) == (user, theirs.source)
        assert [one["row"] for one in mine["items"]] == list(range(len(theirs.items)))
        np.testing.assert_allclose([one["score"] for one in mine["items"]], theirs.scores, atol=1e-5)
        # Items closer together than rounding may change places.
        expected_scores = dict(zip(theirs.items, theirs.scores.tolist(), strict=True))
        assert {one["item_id"]: one["score"] for one in mine["items"]} == pytest.approx(expected_scores, abs=1e-5)
    assert films.json({"user_ids": users[:2], "k": 10})["results"] == films.json(
        {"users": [{"user_id": users[0]}, {"user_id": users[1], "k": 10}]}
    )["results"]  # fmt: skip


def test_one_user_gets_an_object(mf) -> None:
    answer = mf.json({"user_id": 15, "k": 2, "model": "mf", "version": 1})
    assert answer == {
        "model": "mf",
        "version": 1,
        "user_id": 15,
        "source": "factors",
        "items": [
            {"row": 0, "item_id": 40, "title": None, "score": pytest.approx(4.2)},
            {"row": 1, "item_id": 30, "title": "Thirty", "score": pytest.approx(2.2)},
        ],
    }


def test_what_was_seen_does_not_come(mf) -> None:
    assert [one["item_id"] for one in mf.json({"user_id": 7})["items"]] == [20, 10, 30, 50]
    assert [one["item_id"] for one in mf.json({"user_id": 15})["items"]] == [40, 30, 50]


def test_who_is_unknown_gets_what_is_popular(mf) -> None:
    answer = mf.json({"user_id": 99, "k": 3})
    assert answer["source"] == "popularity"
    assert [(one["item_id"], one["title"]) for one in answer["items"]] == [(20, "Twenty"), (40, None), (10, "Ten")]


def test_equal_scores_come_in_the_catalogues_order(mf, monkeypatch) -> None:
    monkeypatch.setattr(sys.modules["driftwheel_recommend"], "_TILE_ITEMS", 2)
    mf.handler._recommender._items = np.zeros_like(mf.handler._recommender._items)
    assert [one["item_id"] for one in mf.json({"user_id": 7, "k": 3})["items"]] == [10, 20, 30]


def test_factors_that_are_no_numbers_are_a_fault_of_that_request(mf) -> None:
    users = mf.handler._recommender._users.copy()
    users[2] = np.nan
    mf.handler._recommender._users = users
    good, bad = mf.batch({"body": {"user_id": 7}}, {"body": {"user_id": 15}}, headers=REST)
    assert len(json.loads(good)["items"]) == 4
    assert json.loads(bad)["message"] == "mf version 1 recommends with a score that is not a number"
    assert mf.statuses == [200, 500]
