"""Archives in a real TorchServe that knows nothing of Driftwheel: every way in, good and bad requests in one batch."""

import json
import re
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
import pytest

from driftwheel.files import sha256_of
from tests.bundles import CONTRACTS
from tests.serving.torchserve.conftest import Running
from tests.serving.torchserve.in_worker import in_process, raw, scores, text

pytestmark = pytest.mark.system

PAIRS = [{"user_id": 7, "item_id": 10}, {"user_id": 15, "item_id": 20}]
CUSTOMERS = [{"contract": "One year", "tenure": 3.0}, {"contract": None, "tenure": None}]


def test_pairs_in_every_form(torchserve: Running) -> None:
    columns = {"user_id": raw(7, 15), "item_id": raw(10, 20)}
    encoded = {"user_index": raw(1, 2), "item_index": raw(1, 2)}
    body = json.dumps(PAIRS).encode()
    parts = {name: (name, value, "application/octet-stream") for name, value in columns.items()}
    post = torchserve.http.post
    binary = post("/predictions/mf/1", files=parts)
    assert binary.headers["content-type"] == "application/octet-stream"
    for answer in (torchserve.predict("mf", **columns), torchserve.predict("mf", **encoded), binary.content):
        assert scores(answer) == pytest.approx([3.1, 3.7])
    listed = [
        torchserve.predict("mf", data=body),
        torchserve.predict("mf", body=body),
        post("/predictions/mf", json=PAIRS).content,
        post("/predictions/mf/1", content=body).content,
        post("/predictions/mf/1", content=body, headers={"content-type": "text/plain"}).content,
        post("/predictions/mf/1", files={"data": ("rows.json", body)}).content,
        post("/predictions/mf/1", data={"body": body.decode()}).content,
    ]
    for answer in listed:
        assert json.loads(answer) == pytest.approx([3.1, 3.7])
    enveloped = post("/predictions/mf/1", json={"instances": PAIRS})
    assert enveloped.headers["content-type"] == "application/json"
    assert enveloped.json() == {"predictions": pytest.approx([3.1, 3.7])}


def test_customers_in_every_form(torchserve: Running) -> None:
    columns = {"contract": text("One year", ""), "tenure": np.array([3, np.nan], "<f4").tobytes()}
    bundle = torchserve.bundles["churn", 1]
    expected = in_process(
        bundle,
        {"contract": np.array(["One year", None], dtype=object), "tenure": np.array([3, np.nan], np.float32)},
    )
    as_json = {**columns, "contract": b'["One year", null]'}
    encoded = {"category": raw(2, 0), "number": columns["tenure"]}
    for inputs in (columns, as_json, encoded):
        np.testing.assert_array_equal(scores(torchserve.predict("churn", **inputs)), expected)
    parts = {
        "contract": ("c.json", as_json["contract"], "application/json"),
        "tenure": ("t", columns["tenure"], "application/octet-stream"),
    }
    np.testing.assert_array_equal(scores(torchserve.http.post("/predictions/churn", files=parts).content), expected)
    answer = torchserve.http.post("/predictions/churn/1", json=CUSTOMERS).json()
    np.testing.assert_allclose(answer, expected, atol=1e-6)


def test_recommend(torchserve: Running) -> None:
    body = {"user_id": 15, "k": 2}
    over_rest = torchserve.http.post("/predictions/mf/1", json=body).json()
    assert [(one["item_id"], one["title"]) for one in over_rest["items"]] == [(40, None), (30, "Thirty")]
    assert json.loads(torchserve.predict("mf", 1, data=json.dumps(body).encode())) == over_rest
    many = torchserve.http.post("/predictions/mf/1", json={"users": [body, {"user_id": 99, "k": 1}]}).json()["results"]
    assert many[0] == over_rest
    assert (many[1]["source"], many[1]["items"][0]["item_id"]) == ("popularity", 20)


def test_describe(torchserve: Running) -> None:
    for name, version in torchserve.bundles:
        answer = torchserve.management.get(f"/models/{name}/{version}", params={"customized": "true"}).json()
        (told,) = (one["customizedMetadata"] for one in answer)
        assert (told["name"], told["version"]) == (name, version)
        assert told["bundle_sha256"] == sha256_of(torchserve.bundles[name, version].folder / "bundle.json")


def test_two_versions_at_once(torchserve: Running) -> None:
    columns = {"user_id": raw(7, 15), "item_id": raw(10, 20)}
    calls = [(1 + n % 2, torchserve.send("mf", 1 + n % 2, **columns)) for n in range(200)]
    for version, call in calls:
        expected = [3.1, 3.7] if version == 1 else [3.35, 3.95]
        assert scores(call.result(timeout=60).prediction) == pytest.approx(expected)


def test_a_refused_call_that_is_alone_has_a_grpc_status(torchserve: Running) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        torchserve.predict("mf", 1, user_id=raw(7), item_id=b"123")
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "input 'item_id' must be raw little-endian int64" in (raised.value.details() or "")
    answer = torchserve.http.post("/predictions/mf/1", json=[{"user_id": 7, "item_id": "x"}])
    assert (answer.status_code, answer.json()["code"]) == (400, 400)
    assert answer.json()["message"] == "input 'item_id' must hold whole numbers of 64 bits, got 'x' in row 0"


MIXED: dict[str, list[tuple[dict[str, Any], Any]]] = {
    "mf": [
        ({"user_id": raw(7, 15), "item_id": raw(10, 20)}, [3.1, 3.7]),
        ({"user_id": raw(7), "item_id": raw(10, 20)}, "all inputs must have the same number of rows"),
        ({"user_index": raw(3, 2, 1), "item_index": raw(1, 1, 1)}, [3.3, 3.2, 3.1]),
        ({"user_index": raw(9), "item_index": raw(1)}, "graph input 'user_index' has an index"),
    ],
    "churn": [
        ({"contract": text("x"), "tenure": np.array([30], "<f4").tobytes()}, [0.18242553]),
        ({"contract": text("x")[:-1], "tenure": b"\0\0\0\0"}, "input 'contract': row 0 claims 1 bytes"),
        ({"category": raw(0, 0), "number": np.array([30, 30], "<f4").tobytes()}, [0.18242553] * 2),
        ({"contract": text("x"), "tenure": np.array([-np.inf], "<f4").tobytes()}, "input 'tenure' must be finite"),
    ],
}
OVER_REST: dict[str, list[tuple[Any, int, Any]]] = {
    "mf": [(PAIRS, 200, [3.1, 3.7]), ({"user_id": 7, "k": 0}, 400, "k must be a whole number"), (3, 400, "the body must be")],
    "churn": [([{}], 200, [0.18242553]), ([{"x": 1}], 400, "instances[0] has the unknown input 'x'"), ([], 400, "instances")],
}  # fmt: skip


COUNTERS = ("Batches", "Rows", "RunMilliseconds", "Refused")
ROUNDS = 5
MANY = 5000
"""More rows than all that a test before may have left untold."""


def test_good_and_bad_requests_in_one_batch(torchserve: Running) -> None:
    before = settled(torchserve)
    with ThreadPoolExecutor(8) as pool:
        for _ in range(ROUNDS):
            for model in MIXED:
                check_mixed(torchserve, model, pool)
    after = settled(torchserve)
    told = {key: after[key] - before[key] for key in before}
    for model, rows in (("mf", 4 * (2 + 3) + 2 * 2), ("churn", 4 * (1 + 2) + 2)):
        assert (told[model, "Rows"], told[model, "Refused"]) == (ROUNDS * rows + 2 * MANY, ROUNDS * (8 + 4))
        assert told[model, "Batches"] < ROUNDS * 10 / 2, "good requests must have shared runs"
        assert told[model, "RunMilliseconds"] > 0


def check_mixed(torchserve: Running, model: str, pool: ThreadPoolExecutor) -> None:
    """Send all at once, over both ways in, and look at each answer."""
    post = torchserve.http.post
    over_grpc = [(expected, torchserve.send(model, 1, **inputs)) for inputs, expected in MIXED[model] * 4]
    over_rest = [
        (code, expected, pool.submit(post, f"/predictions/{model}/1", json=body))
        for body, code, expected in OVER_REST[model] * 2
    ]
    for expected, call in over_grpc:
        check_grpc(expected, call)
    for code, expected, asked in over_rest:
        answer = asked.result()
        assert answer.status_code == code
        value = answer.json()
        assert value == pytest.approx(expected) if code == 200 else value["message"].startswith(expected)


def check_grpc(expected: Any, call: grpc.Future) -> None:
    """Within a batch TorchServe's gRPC has no statuses: a fault is an answer that begins as no scores do."""
    if error := call.exception(timeout=60):  # it was alone
        assert isinstance(expected, str)
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert expected in error.details()
        return
    answer = call.result().prediction
    if isinstance(expected, str):
        assert answer.startswith(b'{"code":400,')
        assert json.loads(answer)["message"].startswith(expected)
    else:
        assert scores(answer) == pytest.approx(expected)


def settled(torchserve: Running) -> dict[tuple[str, str], float]:
    """The handlers' counters, once all that was counted before is told.

    They are told in order, now and then: with ``MANY`` rows that are sent now, all before them has been sent off, and with as
    many once more it has arrived.
    """
    for _ in range(2):
        seen, give_up = counted(torchserve), time.monotonic() + 60
        torchserve.predict("mf", user_id=raw(*[7] * MANY), item_id=raw(*[10] * MANY))
        torchserve.predict("churn", contract=text(*["x"] * MANY), tenure=np.zeros(MANY, "<f4").tobytes())
        for model in MIXED:
            rows = seen.get((model, "Rows"), 0) + MANY
            while counted(torchserve).get((model, "Rows"), 0) < rows:
                assert time.monotonic() < give_up, model
                time.sleep(0.1)
    return {(model, name): 0.0 for model in MIXED for name in COUNTERS} | counted(torchserve)


def counted(torchserve: Running) -> dict[tuple[str, str], float]:
    """What has been told of the handlers' counters, by model and name."""
    page = torchserve.metrics.get("/metrics").text
    found = re.findall(r'^Driftwheel(\w+){ModelName="(\w+)",ModelVersion="1",.*} (\S+)$', page, re.MULTILINE)
    return {(model, name): float(value) for name, model, value in found}


def test_ten_thousand_random_requests(torchserve: Running) -> None:
    """Pairs and customers, known and unknown; in calls of many sizes, so that batches mix them."""
    random = np.random.default_rng(5)
    sizes = [1] * 200 + random.integers(1, 100, 96).tolist() + [10_000 - 200]
    films, churn = torchserve.bundles["films", 1], torchserve.bundles["churn", 1]
    calls: list[tuple[dict[str, np.ndarray], Any, Any]] = []
    for rows in sizes:
        pairs = {"user_id": random.integers(1, 320, rows), "item_id": random.integers(1, 950, rows)}
        tenure = np.where(random.random(rows) < 0.1, np.nan, random.uniform(0, 90, rows)).astype("<f4")
        customers = {"contract": random.choice([*CONTRACTS, "", "else"], rows), "tenure": tenure}
        sent = [
            torchserve.send("films", 1, **{name: values.astype("<i8").tobytes() for name, values in pairs.items()}),
            torchserve.send("churn", 1, contract=text(*customers["contract"].tolist()), tenure=tenure.tobytes()),
        ]
        calls += [(pairs, films, sent[0]), (customers, churn, sent[1])]
    for bundle in (films, churn):
        mine = [(columns, call) for columns, of, call in calls if of is bundle]
        answers = np.concatenate([scores(call.result(timeout=60).prediction) for _, call in mine])
        together = {name: np.concatenate([columns[name] for columns, _ in mine]) for name in mine[0][0]}
        assert len(answers) >= 10_000
        np.testing.assert_allclose(answers, in_process(bundle, together), rtol=0, atol=1e-5)


def test_the_log_is_quiet(torchserve: Running) -> None:
    before = torchserve.log.read_text()
    for _ in range(5):
        torchserve.http.post("/predictions/mf/1", json=PAIRS)
        torchserve.http.post("/predictions/mf/1", json=[3])
    assert torchserve.log.read_text() == before
