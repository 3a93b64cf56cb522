"""Recommend over both protocols, against a real server."""

import shutil
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pyarrow.parquet as pq
import pytest

from driftwheel.bundle import MANIFEST, USER_FACTORS, bundle_folder, read_manifest, seal
from driftwheel.rollout import serve_stable, start_candidate
from serving._proto import driftwheel_pb2 as pb
from serving._proto.driftwheel_pb2_grpc import RecommenderStub
from serving.front_door import running
from tests.bundles import make_rating_bundle
from tests.serving.conftest import BY, Live, connected, prepared_home

Ask = Callable[..., list[dict[str, Any]]]
"""Users as JSON has them to results as JSON has them."""


@pytest.fixture
def stub(live: Live) -> Generator[RecommenderStub]:
    with grpc.insecure_channel(live.address.target) as channel:
        yield RecommenderStub(channel)


def over_grpc(stub: RecommenderStub, users: list[dict[str, Any]], **fields: Any) -> list[dict[str, Any]]:
    answer = stub.Recommend(pb.RecommendRequest(users=[message(**user) for user in users], **fields))
    return [
        {
            "model": one.model,
            "version": one.version,
            "arm": one.arm,
            "prediction_id": one.prediction_id,
            "source": pb.Source.Name(one.source).removeprefix("SOURCE_").lower(),
            "items": [
                {"item_id": item, "title": title or None, "score": pytest.approx(score)}
                for item, title, score in zip(one.items.numbers, one.titles, one.scores, strict=True)
            ],
        }
        for one in answer.results
    ]


def message(
    user_id: int, k: int = 0, exclude: tuple = (), candidates: list | None = None, ratings: tuple = ()
) -> pb.UserQuestion:
    return pb.UserQuestion(
        user_id=user_id,
        k=k,
        exclude=pb.Ids(numbers=exclude),
        candidates=None if candidates is None else pb.Ids(numbers=candidates),
        ratings=pb.Ratings(
            items=pb.Ids(numbers=[one["item_id"] for one in ratings]), values=[one["rating"] for one in ratings]
        ),
    )


@pytest.fixture(params=["http", "grpc"])
def ask(request: pytest.FixtureRequest, live: Live, stub: RecommenderStub) -> Ask:
    if request.param == "grpc":
        return lambda *users, **fields: over_grpc(stub, list(users), **fields)

    def over_http(*users: dict[str, Any], **fields: Any) -> list[dict[str, Any]]:
        answer = live.http.post("/v1/recommend", json={"users": users, **fields})
        assert answer.status_code == 200, answer.text
        return answer.json()["results"]

    return over_http


def ids(result: dict[str, Any]) -> list[int]:
    return [item["item_id"] for item in result["items"]]


def test_each_user_of_a_batch_gets_their_own(ask: Ask) -> None:
    known, filtered, stranger = ask({"user_id": 7, "k": 2}, {"user_id": 15, "exclude": [40, 999]}, {"user_id": 99})
    assert (known["source"], ids(known)) == ("factors", [20, 10])
    assert (filtered["source"], ids(filtered)) == ("factors", [30, 50])
    assert (stranger["source"], ids(stranger)) == ("popularity", [20, 40, 10, 50, 30])
    assert len({one["prediction_id"] for one in (known, filtered, stranger)}) == 3
    assert {(one["model"], one["version"], one["arm"]) for one in (known, filtered)} == {("mf", 1, "stable")}


def test_candidates_are_all_that_is_ranked(ask: Ask) -> None:
    some, none, stranger = ask(
        {"user_id": 7, "candidates": [50, 30, 999, 30, 40]},
        {"user_id": 7, "candidates": []},
        {"user_id": 99, "candidates": [10, 50, 20], "exclude": [20]},
    )
    assert ids(some) == [30, 50]
    assert ids(none) == []
    assert (stranger["source"], ids(stranger)) == ("popularity", [10, 50])


def test_ratings_fold_a_user_in(ask: Ask) -> None:
    """One rating 2 above what the item's bias says: a third of it each goes to the vector and to the user's bias."""
    ratings = ({"item_id": 10, "rating": 5.0}, {"item_id": 12345, "rating": 1.0})
    stranger, known, clueless = ask(
        {"user_id": 99, "ratings": ratings},
        {"user_id": 400, "ratings": ratings},
        {"user_id": 99, "ratings": ratings[1:]},
    )
    scores = {40: 4 + 2 / 3, 20: 3.5, 30: 2 + 2 / 3, 50: 2.0}
    assert (stranger["source"], ids(stranger)) == ("fold_in", list(scores))
    assert [item["score"] for item in stranger["items"]] == pytest.approx(list(scores.values()))
    assert stranger["items"][1]["title"] == "Twenty"
    assert (known["source"], ids(known)) == ("fold_in", [40, 20, 30, 50])
    assert clueless["source"] == "popularity"


@pytest.mark.parametrize(
    ("user", "message"),
    [
        ({"user_id": 7, "k": 1001}, "users[1].k must be between 1 and 1000, got 1001"),
        (
            {"user_id": 7, "ratings": [{"item_id": 10, "rating": 5.5}]},
            "users[1].ratings must be between 0.5 and 5, got 5.5",
        ),
        (
            {"user_id": 7, "ratings": [{"item_id": 20, "rating": 5}, {"item_id": 20, "rating": 1}]},
            "users[1].ratings must name each item once, got 20 again at position 1",
        ),
        (
            {"user_id": 7, "exclude": [1] * 1500, "candidates": [1] * 600},
            "exclude, candidates and ratings have 2100 entries in all; one request may have at most 2000",
        ),
    ],
)
def test_what_cannot_be_used_is_named(live: Live, stub: RecommenderStub, user: dict[str, Any], message: str) -> None:
    users = [{"user_id": 7}, user]
    answer = live.http.post("/v1/recommend", json={"users": users})
    assert message in answer.json()["error"]
    with pytest.raises(grpc.RpcError) as failed:
        over_grpc(stub, users)
    assert message in failed.value.details()
    assert (answer.status_code, failed.value.code().name) in {(400, "INVALID_ARGUMENT"), (413, "RESOURCE_EXHAUSTED")}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"users": []}, "users must hold at least one user"),
        ({"users": [{"user_id": 1}], "k": 3}, "k belongs to one of users where there are users"),
        ({"k": 3}, "user_id is missing; or give users"),
        ({"users": [{"user_id": 7}] * 257}, "users has 257 entries; one request may have at most 256"),
        ({"users": [{"user_id": 7}, {"user_id": "7"}]}, "users[1].user_id must hold whole numbers of 64 bits, got '7'"),
        (
            {"user_id": 7, "candidates": [1, "x"]},
            "candidates must hold whole numbers of 64 bits, got 'x' at position 1",
        ),
        ({"user_id": 7, "k": 0}, "k must be between 1 and 1000, got 0"),
        ({"user_id": 7, "version": 9}, "no loaded version 9"),
    ],
)
def test_forms_of_http(live: Live, body: dict[str, Any], message: str) -> None:
    answer = live.http.post("/v1/recommend", json=body)
    assert 400 <= answer.status_code < 500
    assert message in answer.json()["error"]


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (pb.RecommendRequest(), "users must hold at least one user"),
        (pb.RecommendRequest(users=[{"k": 3}]), "users[0] must have a user_id or a user_key"),
        (
            pb.RecommendRequest(users=[{"user_key": "7"}]),
            "users[0].user_id must hold whole numbers of 64 bits, got '7'",
        ),
        (
            pb.RecommendRequest(users=[{"user_id": 7, "exclude": {"numbers": [1], "text": ["a"]}}]),
            "users[0].exclude must hold numbers or text, not both",
        ),
        (
            pb.RecommendRequest(users=[{"user_id": 7, "ratings": {"items": {"numbers": [10, 20]}, "values": [3]}}]),
            "users[0].ratings must hold one rating for each item, got 1 for 2",
        ),
        (
            pb.RecommendRequest(
                users=[{"user_id": 7, "ratings": {"items": {"numbers": [10]}, "values": [float("nan")]}}]
            ),
            "users[0].ratings must be between 0.5 and 5, got nan at position 0",
        ),
    ],
)
def test_forms_of_grpc(stub: RecommenderStub, request_: pb.RecommendRequest, message: str) -> None:
    with pytest.raises(grpc.RpcError) as failed:
        stub.Recommend(request_)
    assert failed.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert message in failed.value.details()


def test_an_expired_call_is_not_run(live: Live) -> None:
    answer = live.http.post("/v1/recommend", json={"user_id": 7}, headers={"x-request-timeout-ms": "0"})
    assert (answer.status_code, answer.json()["error"]) == (504, "the deadline passed before the model ran")


def test_a_batch_is_split_by_user_and_each_can_have_feedback(tmp_path: Path) -> None:
    settings = prepared_home(tmp_path)
    start_candidate(settings.rollouts, "mf", 2, steps=(0.5, 1.0), **BY)
    users = [{"user_id": user, "k": 1} for user in range(1000, 1064)]
    with running(settings) as (door, address), connected(settings, door, address) as live:
        results = live.http.post("/v1/recommend", json={"users": users}).json()["results"]
        arms = {one["arm"] for one in results}
        assert arms == {"candidate", "control"}
        assert all((one["version"] == 2) == (one["arm"] == "candidate") for one in results)
        assert [one["user_id"] for one in results] == [user["user_id"] for user in users]
        again = [live.http.post("/v1/recommend", json=user).json() for user in users[:8]]
        assert [one["arm"] for one in again] == [one["arm"] for one in results[:8]]
        labels = [{"prediction_id": one["prediction_id"], "label": 4} for one in results]
        assert live.http.post("/v1/feedback", json={"feedback": labels}).json() == {"accepted": 64}
    logged = [
        row for path in settings.prediction_log.rglob("mf/*/*.parquet") for row in pq.read_table(path).to_pylist()
    ]
    by_id = {row["prediction_id"]: row for row in logged}
    assert len(by_id) == 72
    for user, one in zip(users, results, strict=True):
        row = by_id[one["prediction_id"]]
        assert (row["kind"], row["arm"], row["in_user_id"]) == ("recommend", one["arm"], [user["user_id"]])
        assert row["in_item_id"] == [one["items"][0]["item_id"]]


def test_users_of_many_calls_share_runs(live: Live, stub: RecommenderStub) -> None:
    def one(user: int) -> list[int]:
        return ids(over_grpc(stub, [{"user_id": user, "k": 2}])[0])

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(one, [7, 400, 99] * 40))
    assert answers == [[20, 10], [40, 20], [20, 40]] * 40


def test_a_bundle_without_factors_still_scores(tmp_path: Path) -> None:
    settings = prepared_home(tmp_path)
    with altered_bundle(settings.models) as folder:
        shutil.rmtree(folder / "factors")
    serve_stable(settings.rollouts, "mf", 3, **BY)
    with running(settings) as (door, address), connected(settings, door, address) as live:
        answer = live.http.post("/v1/recommend", json={"user_id": 7})
        assert (answer.status_code, answer.json()["error"]) == (
            404,
            "mf version 3 cannot recommend: its bundle has no factors; export it again",
        )
        assert live.http.get("/v2/models/mf/ready").status_code == 200


def test_a_score_that_is_no_number_is_the_versions_fault(tmp_path: Path) -> None:
    settings = prepared_home(tmp_path)
    with altered_bundle(settings.models) as folder:
        users = np.load(folder / USER_FACTORS)
        users[3, 0] = np.nan
        np.save(folder / USER_FACTORS, users)
    serve_stable(settings.rollouts, "mf", 3, **BY)
    with running(settings) as (door, address), connected(settings, door, address) as live:
        answer = live.http.post("/v1/recommend", json={"users": [{"user_id": 7}, {"user_id": 400}]})
        assert (answer.status_code, answer.json()["error"]) == (
            500,
            "mf version 3 recommends with a score that is not a number",
        )
        assert live.http.post("/v1/recommend", json={"user_id": 7}).status_code == 200
        assert 'code="NOT_FINITE"' in live.http.get("/metrics").text


@contextmanager
def altered_bundle(models: Path) -> Generator[Path]:
    """Version 3 of ``mf``, sealed again after the block."""
    make_rating_bundle(models, 3)
    folder = bundle_folder(models, "mf", 3)
    manifest = read_manifest(folder)
    yield folder
    (folder / MANIFEST).unlink()
    seal(folder, manifest)
