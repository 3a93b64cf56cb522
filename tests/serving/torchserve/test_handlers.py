"""The handlers in this process: what a batch of requests gets, good and bad."""

import json
import re
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from driftwheel.preprocessing import encode
from tests.serving.torchserve.in_worker import PAIR, REST, Served, in_process, raw, scores, text

pytest.importorskip("ts", reason="needs torchserve")


def test_every_form_gives_the_same_scores(films: Served) -> None:
    users, items = np.array([5, 299, 12345, 1]), np.array([7, 1, 900, 10**12])
    expected = in_process(films.bundle, {"user_id": users, "item_id": items})
    rows = [{"user_id": int(u), "item_id": int(i)} for u, i in zip(users, items, strict=True)]
    body = json.dumps(rows)
    encoded = encode(films.bundle.manifest.signature, films.bundle.vocabularies(), {"user_id": users, "item_id": items})
    columns, graph, *listed, envelope = films.batch(
        {"user_id": raw(*users), "item_id": bytearray(raw(*items))},
        {name: values.astype("<i8").tobytes() for name, values in encoded.items()},
        {"body": bytearray(body.encode())},
        {"data": body},
        {"body": rows},  # TorchServe has parsed what said that it was JSON
        {"user_id": users.tolist(), "item_id": json.dumps(items.tolist())},
        {"body": {"instances": rows}},
    )
    for answer in (columns, graph, listed.pop()):
        np.testing.assert_array_equal(scores(answer), expected)
    for answer in listed:
        np.testing.assert_allclose(json.loads(answer), expected, atol=1e-6)
    np.testing.assert_allclose(json.loads(envelope)["predictions"], expected, atol=1e-6)


def test_text_columns(churn: Served) -> None:
    contracts, tenure = ["One year", "", "élan", "Month-to-month"], np.array([1, np.nan, 3, 400], "<f4")
    expected = in_process(churn.bundle, {"contract": np.array(contracts, dtype=object), "tenure": tenure})
    graph = encode(
        churn.bundle.manifest.signature, churn.bundle.vocabularies(), {"contract": contracts, "tenure": tenure}
    )
    rows = [
        {"contract": c or None, "tenure": None if np.isnan(t) else float(t)}
        for c, t in zip(contracts, tenure, strict=True)
    ]
    *columns, listed = churn.batch(
        {"contract": text(*contracts), "tenure": tenure.tobytes()},
        {"contract": json.dumps(contracts).encode(), "tenure": tenure.tobytes()},
        {"contract": json.dumps([one or None for one in contracts]), "tenure": tenure.tobytes()},
        {name: np.ascontiguousarray(values).tobytes() for name, values in graph.items()},
        {"body": rows},
    )
    for answer in columns:
        np.testing.assert_array_equal(scores(answer), expected)
    np.testing.assert_allclose(json.loads(listed), expected, atol=1e-6)
    assert len(set(expected.tolist())) == 4, "the rows must tell the forms apart"


def test_a_batch_is_one_run_and_each_fault_its_own_requests(mf: Served) -> None:
    runs: list[int] = []
    run = mf.handler._graph.run
    mf.handler._graph.run = lambda feed: (runs.append(len(feed["user_index"])), run(feed))[1]
    answers = mf.batch(
        {"user_id": raw(7, 15), "item_id": raw(10, 20)},
        {"user_id": raw(7), "item_id": raw(10, 20)},
        {"user_index": raw(1, 2, 3), "item_index": raw(1, 1, 1)},
        {"body": b"[{"},
        {"body": json.dumps([PAIR])},
        {"body": {"user_id": 7, "k": 2}},
        {"body": {"user_id": 7, "k": -2}},
    )
    assert runs == [2 + 3 + 1]
    np.testing.assert_allclose(scores(answers[0]), [3.1, 3.7], atol=1e-6)
    np.testing.assert_allclose(scores(answers[2]), [3.1, 3.2, 3.3], atol=1e-6)
    assert json.loads(answers[4]) == pytest.approx([3.1])
    assert [one["item_id"] for one in json.loads(answers[5])["items"]] == [20, 10]
    assert mf.statuses == [200, 400, 200, 400, 200, 200, 400]
    messages = [json.loads(answers[n])["message"] for n in (1, 3, 6)]
    assert messages[0] == "all inputs must have the same number of rows: user_id has 1, item_id has 2"
    assert messages[1].startswith("the body cannot be used: JSON is malformed: ")
    assert messages[2] == "k must be a whole number between 1 and 1000, got -2"


def test_huge_batches_run_in_parts(mf: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["driftwheel_adapter"], "_MOST_ROWS", 3)
    users, items = [7, 15, 400, 99, 7, 15, 400], [10, 20, 30, 40, 50, 10, 20]
    (answer,) = mf.batch({"user_id": raw(*users), "item_id": raw(*items)})
    np.testing.assert_array_equal(scores(answer), in_process(mf.bundle, {"user_id": users, "item_id": items}))


def test_a_run_that_fails_is_its_own_requests_fault(mf: Served, caplog: pytest.LogCaptureFixture) -> None:
    run = mf.handler._graph.run

    def failing(feed: Any) -> Any:
        if 3 in feed["user_index"]:
            raise RuntimeError("device lost")
        return run(feed)

    mf.handler._graph.run = failing
    one, bad, two = mf.batch(*({"user_id": raw(user), "item_id": raw(10)} for user in (7, 400, 15)))
    assert (scores(one), scores(two)) == (pytest.approx([3.1]), pytest.approx([3.2]))
    assert json.loads(bad) == {
        "code": 500,
        "type": "InternalServerException",
        "message": "the model failed: device lost",
    }
    assert mf.statuses == [200, 500, 200]
    assert "the model failed" in caplog.text


def test_a_score_that_is_no_number_is_a_fault(mf: Served) -> None:
    mf.handler._graph.run = lambda feed: np.where(feed["user_index"] == 2, np.nan, 1).astype(np.float32)
    one, bad = mf.batch({"user_id": raw(7), "item_id": raw(10)}, {"user_id": raw(7, 15), "item_id": raw(10, 10)})
    assert scores(one).tolist() == [1.0]
    assert json.loads(bad)["message"] == "mf version 1 answered 'score' with something that is not a number"
    assert mf.statuses == [200, 500]


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        ({"user_id": raw(7)}, "a request has the raw inputs user_id, item_id, or JSON (application/json); got user_id"),
        ({"user_id": raw(7), "item": raw(7)}, "input 'item_id' is missing; the model takes user_id, item_id"),
        ({"user_id": raw(7), "item_id": raw(7), "x": b""}, "a request has the raw inputs user_id, item_id"),
        ({}, "a request has the raw inputs user_id, item_id, or JSON (application/json); got none"),
        ({"user_id": raw(7), "item_id": b"12345"}, "input 'item_id' must be raw little-endian int64, 8 bytes a value; got 5 bytes"),
        ({"user_id": b"", "item_id": b""}, "a request must have at least one row"),
        ({"user_id": "7", "item_id": "10"}, "input 'user_id' must be a raw column of INT64 or a list, got 7"),
        ({"user_index": raw(4), "item_index": raw(1)}, "graph input 'user_index' has an index of 'user_id' outside 0..3"),
        ({"user_index": raw(1), "item_index": raw(-1)}, "graph input 'item_index' has an index of 'item_id' outside 0..5"),
        ({"user_index": [1], "item_index": raw(1)}, "graph input 'user_index' must be raw bytes, got [1]"),
        ({"body": b"\xff"}, "the body cannot be used: JSON is malformed"),
        ({"body": b"[NaN]"}, "the body cannot be used: NaN is no JSON"),
        ({"body": b"[" * 100_000}, "the body cannot be used: JSON is malformed"),
        ({"body": "3"}, "the body must be a list of objects, got 3"),
        ({"body": []}, "instances must hold at least one row"),
        ({"body": [PAIR, 3]}, "the body[1] must be an object of inputs, got 3"),
        ({"body": {"instances": [PAIR], "k": 1}}, "the body must have nothing beside 'instances'"),
        ({"body": [PAIR, {"user_id": 7}]}, "instances[1] has no 'item_id'"),
        ({"body": [{**PAIR, "when": 1}]}, "instances[0] has the unknown input 'when'; the model takes user_id, item_id"),
        ({"body": [{**PAIR, "user_id": "7"}]}, "input 'user_id' must hold whole numbers of 64 bits, got '7' in row 0"),
        ({"body": [{**PAIR, "user_id": True}]}, "input 'user_id' must hold whole numbers of 64 bits, got True in row 0"),
        ({"body": [{**PAIR, "user_id": 2**63}]}, "input 'user_id' must hold whole numbers of 64 bits, got 9223372036854775808"),
        ({"body": [{**PAIR, "user_id": "\ud800"}]}, "got '\\ud800' in row 0"),
        ({"body": [{**PAIR, "\ud800": 1}]}, "instances[0] has the unknown input '\\ud800'"),
        ({"body": {"user_id": 7, "k": 1001}}, "k must be a whole number between 1 and 1000, got 1001"),
        ({"body": {"user_id": "7", "k": 1}}, "user_id must hold whole numbers of 64 bits, got '7'"),
        ({"body": {"user_id": 7, "top": 1}}, "top is unknown; a user has candidates, exclude, k, ratings, user_id"),
        ({"body": {"user_id": 7, "exclude": 3}}, "exclude must be a list, got 3"),
        ({"body": {"user_id": 7, "exclude": [1] * 10_001}}, "exclude has 10001 entries; at most 10000 may come"),
        ({"body": {"user_id": 7, "candidates": [None]}}, "candidates must hold whole numbers of 64 bits, got None"),
        ({"body": {"user_id": 7, "ratings": [{"item_id": 10, "rating": 9}]}}, "ratings[0].rating must be between 0.5 and 5, got 9"),
        ({"body": {"user_id": 7, "ratings": [{"item_id": 10}]}}, "ratings[0] must be an object of item_id and rating"),
        ({"body": {"user_id": 7, "ratings": [{"item_id": 10, "rating": 3}] * 2}}, "ratings must name each item once, got 10 again"),
        ({"body": {"users": []}}, "users must hold at least one user"),
        ({"body": {"users": [{"user_id": 7}, {"k": 3}]}}, "users[1].user_id is missing"),
        ({"body": {"users": [{"user_id": 7}, 3]}}, "users[1] must be an object, got 3"),
        ({"body": {"users": [{"user_id": 7}], "k": 3}}, "k belongs to one of users where there are users"),
        ({"body": {"user_ids": [7, "8"], "k": 3}}, "users[1].user_id must hold whole numbers of 64 bits, got '8'"),
        ({"body": {"user_id": 7, "version": 2}}, "version must be 1, which is what runs here; got 2"),
        ({"body": {"user_id": 7, "model": "other"}}, "model must be 'mf', which is what runs here; got 'other'"),
    ],
)  # fmt: skip
def test_a_bad_request_is_refused_by_name(mf: Served, request_: dict[str, Any], says: str) -> None:
    assert mf.fault(request_).startswith(says) or says in mf.fault(request_)


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        ({"contract": text("a")[:3], "tenure": b"\0\0\0\0"}, "input 'contract' ends within the length of row 0"),
        ({"contract": text("a", "b")[:-1], "tenure": b"\0\0\0\0"}, "input 'contract': row 1 claims 1 bytes, 0 are left"),
        ({"contract": b'["a", 3]', "tenure": b"\0" * 8}, "input 'contract' must hold text (null where missing), got 3 in row 1"),
        ({"contract": text("a"), "tenure": np.array([np.inf], "<f4").tobytes()}, "input 'tenure' must be finite (NaN where missing), got inf in row 0"),
        ({"body": [{"tenure": 1e39}]}, "input 'tenure' must hold numbers of 32 bits (null where missing), got 1e+39 in row 0"),
        ({"body": b'[{"tenure": 1e999}]'}, "input 'tenure' must hold numbers of 32 bits (null where missing), got inf in row 0"),
        ({"body": [{"tenure": False}]}, "input 'tenure' must hold numbers of 32 bits (null where missing), got False"),
        ({"category": raw(3), "number": b"\0\0\0\0"}, "graph input 'category' has an index of 'contract' outside 0..2"),
        ({"category": raw(1), "number": b"\0"}, "input 'number' must be raw little-endian float32, 4 bytes a value; got 1 bytes"),
        ({"body": {"user_id": 7, "k": 3}}, "instances[0] has the unknown input 'k'; the model takes contract, tenure"),
    ],
)  # fmt: skip
def test_a_bad_customer_is_refused_by_name(churn: Served, request_: dict[str, Any], says: str) -> None:
    assert churn.fault(request_).startswith(says)


def test_a_refused_request_that_came_alone_has_a_status_over_grpc(mf: Served) -> None:
    from ts.utils.util import PredictionException

    with pytest.raises(PredictionException) as raised:
        mf.batch({"body": [{"user_id": 7}]})
    assert (raised.value.error_code, raised.value.message) == (400, "instances[0] has no 'item_id'")
    (answer,) = mf.batch({"body": [{"user_id": 7}]}, headers=REST)
    assert (json.loads(answer)["code"], mf.statuses, mf.kinds) == (400, [400], ["application/json"])


def test_rest_is_told_what_the_answer_is(mf: Served) -> None:
    requests = {"body": [PAIR]}, {"user_id": raw(7), "item_id": raw(10)}, {"body": {"user_id": 7}}
    mf.batch(*requests, headers=REST)
    assert mf.kinds == ["application/json", "application/octet-stream", "application/json"]
    mf.batch(*requests)
    assert mf.kinds == [None, None, None]


def test_describe(mf: Served) -> None:
    described, scored = mf.batch({}, {"body": [PAIR]}, headers={**REST, "describe": "True"})
    told = json.loads(described)
    assert (told["name"], told["version"], told["task"], told["recommends"]) == ("mf", 1, "rating", True)
    assert (told["graph"], told["device"]) == ("model.onnx", "cpu")
    assert told["inputs"] == [{"name": "user_id", "datatype": "INT64"}, {"name": "item_id", "datatype": "INT64"}]
    assert told["outputs"] == [{"name": "score", "datatype": "FP32", "low": 0.5, "high": 5.0}]
    assert re.fullmatch("[0-9a-f]{64}", told["bundle_sha256"])
    assert json.loads(scored) == told


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.sampled_from([7, 10, 15, 99]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "user_id",
                    "item_id",
                    "k",
                    "users",
                    "user_ids",
                    "ratings",
                    "rating",
                    "exclude",
                    "candidates",
                    "instances",
                    "x",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)
FIELDS = st.dictionaries(
    st.sampled_from(["body", "data", "user_id", "item_id", "user_index", "item_index", "describe", ""]),
    JSON | st.binary(max_size=24) | st.text(max_size=8) | JSON.map(lambda value: json.dumps(value).encode()),
    max_size=3,
)


def test_nothing_that_a_client_sends_harms_the_others(mf: Served) -> None:
    @settings(max_examples=200, deadline=None)
    @given(st.lists(FIELDS, min_size=1, max_size=4))
    def tried(requests: list[dict[str, Any]]) -> None:
        good = {"user_id": raw(7), "item_id": raw(10)}
        answers = mf.batch(*requests, good, headers=REST)
        assert scores(answers[-1]) == pytest.approx([3.1])
        for status, answer in zip(mf.statuses, answers, strict=True):
            assert isinstance(answer, bytes)
            assert status in (200, 400)
            assert (status == 400) is answer.startswith(b'{"code":')

    tried()
