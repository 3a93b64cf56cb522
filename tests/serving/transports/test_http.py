"""REST and typed JSON, asked by httpx."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from tests.serving.conftest import Live

pytestmark = pytest.mark.system


def infer_body(users: list, items: list, **fields) -> dict:
    return {
        "inputs": [
            {"name": "user_id", "datatype": "INT64", "shape": [len(users)], "data": users},
            {"name": "item_id", "datatype": "INT64", "shape": [len(items)], "data": items},
        ],
        **fields,
    }


def test_infer(live: Live) -> None:
    answer = live.http.post("/v2/models/mf/infer", json=infer_body([7, 99], [10, 40], id="mine")).json()
    assert (answer["model_name"], answer["model_version"], answer["id"]) == ("mf", "1", "mine")
    assert answer["outputs"][0]["data"] == pytest.approx([3.1, 4.0])
    pinned = live.http.post("/v2/models/mf/versions/1/infer", json=infer_body([7], [10])).json()
    assert pinned["parameters"]["arm"] == "pinned"


def test_an_expired_deadline_is_not_run(live: Live) -> None:
    answer = live.http.post("/v2/models/mf/infer", json=infer_body([7], [10], parameters={"timeout": 0}))
    assert (answer.status_code, answer.json()["error"]) == (504, "the deadline passed before the model ran")


def test_health_and_metadata(live: Live) -> None:
    assert live.http.get("/v2/health/live").json() == {"live": True}
    assert live.http.get("/v2/health/ready").json() == {"ready": True}
    assert live.http.get("/v2/models/mf/ready").status_code == 200
    assert live.http.get("/v2/models/none/ready").status_code == 404
    assert live.http.get("/v2/models/mf").json()["outputs"] == [{"name": "score", "datatype": "FP32", "shape": [-1]}]
    assert live.http.get("/v2").json()["name"] == "driftwheel"
    assert live.http.head("/v2/health/live").status_code == 200
    assert [m["name"] for m in live.http.post("/v2/repository/index").json()] == ["churn", "mf"]


def test_recommend_ranks_what_a_known_user_has_not_seen(live: Live) -> None:
    answer = live.http.post("/v1/recommend", json={"user_id": 15, "k": 3}).json()
    assert answer["source"] == "factors"
    assert [item["item_id"] for item in answer["items"]] == [40, 30, 50]
    assert answer["items"][1]["title"] == "Thirty"
    assert [item["score"] for item in answer["items"]] == pytest.approx([4.2, 2.2, 1.2])


def test_recommend_leaves_out_what_the_caller_excludes(live: Live) -> None:
    answer = live.http.post("/v1/recommend", json={"user_id": 15, "k": 10, "exclude": [40, 999]}).json()
    assert [item["item_id"] for item in answer["items"]] == [30, 50]


def test_an_unknown_user_gets_the_popular_items_and_is_told_so(live: Live) -> None:
    answer = live.http.post("/v1/recommend", json={"user_id": 123, "k": 2}).json()
    assert (answer["source"], [item["item_id"] for item in answer["items"]]) == ("popularity", [20, 40])
    assert [item["score"] for item in answer["items"]] == pytest.approx([3.5, 4.0])


def test_churn_takes_missing_features(live: Live) -> None:
    customers = [{"contract": "One year", "tenure": 30}, {"tenure": None}, {"contract": "Two decades"}]
    answer = live.http.post("/v1/churn", json={"customers": customers}).json()
    probabilities = [one["churn_probability"] for one in answer["predictions"]]
    assert probabilities == pytest.approx([0.0758582, 0.1824255, 0.1824255], abs=1e-6)


def test_feedback_is_accepted_once_it_is_on_disk(live: Live) -> None:
    given = live.http.post("/v1/recommend", json={"user_id": 15, "k": 1}).json()
    label = {"prediction_id": given["prediction_id"], "row": 0, "label": 4.5}
    assert live.http.post("/v1/feedback", json={"feedback": [label, label]}).json() == {"accepted": 2}
    stored = b"".join(p.read_bytes() for p in (live.settings.prediction_log / "feedback").iterdir())
    assert stored.count(given["prediction_id"].encode()) == 2


@pytest.mark.parametrize(
    ("path", "body", "status", "says"),
    [
        ("/v2/models/none/infer", infer_body([1], [1]), 404, "no model 'none'"),
        ("/v2/models/mf/versions/9/infer", infer_body([1], [1]), 404, "no loaded version 9"),
        (
            "/v2/models/mf/infer",
            infer_body([1.5], [1]),
            400,
            "'user_id' must hold whole numbers of 64 bits, got 1.5 in row 0",
        ),
        ("/v2/models/mf/infer", infer_body(["7"], [1]), 400, "got '7' in row 0"),
        ("/v2/models/mf/infer", infer_body([2**63], [1]), 400, "must hold whole numbers"),
        ("/v2/models/mf/infer", infer_body([1, 2], [1]), 400, "same number of rows"),
        ("/v2/models/mf/infer", {"inputs": "x"}, 400, "$.inputs"),
        ("/v2/models/mf/infer", infer_body([1], [1], parameters={"timeout": "x"}), 400, "'timeout' must be"),
        ("/v2/models/mf/infer", infer_body([1] * 2001, [1] * 2001), 413, "at most 2000"),
        ("/v1/recommend", {"user_id": 1, "k": 0}, 400, "k must be between 1 and 1000, got 0"),
        ("/v1/recommend", {"user_id": "x"}, 400, "user_id must hold whole numbers of 64 bits, got 'x'"),
        ("/v1/recommend", {"k": 3}, 400, "user_id"),
        ("/v1/recommend", {"user_id": 1, "limit": 3}, 400, "limit"),
        ("/v1/recommend", {"user_id": 1, "model": "churn"}, 400, "model 'churn' does churn, not rating"),
        ("/v1/churn", {"customers": []}, 400, "customers must hold at least one row"),
        ("/v1/churn", {"customers": [{"age": 3}]}, 400, "customers[0] has the unknown input 'age'"),
        (
            "/v1/churn",
            {"customers": [{"tenure": "long"}]},
            400,
            "'tenure' must hold numbers of 32 bits (null where missing), got 'long'",
        ),
        ("/v1/feedback", {"feedback": [{"prediction_id": "x", "label": 1}]}, 400, "feedback[0].prediction_id"),
        (
            "/v1/feedback",
            {"feedback": [{"prediction_id": "mf.1.a", "label": 9}]},
            400,
            "label (rating) must be between 0.5 and 5",
        ),
        ("/v1/feedback", {"feedback": [{"prediction_id": "none.1.a", "label": 1}]}, 404, "no model 'none'"),
        ("/v1/recommend", {"user_id": 10**30}, 400, "whole numbers of 64 bits"),
        ("/v1/recommend", {"user_id": 1, "exclude": [-(10**19)]}, 400, "exclude must hold whole numbers of 64 bits"),
        ("/v1/churn", {"customers": [{"tenure": 10**400}]}, 400, "numbers of 32 bits"),
        ("/v1/churn", {"customers": [{"tenure": 1e60}]}, 400, "numbers of 32 bits"),
        ("/v2/models/mf/infer", infer_body([1], [1], parameters={"timeout": 10**400}), 400, "'timeout' must be"),
        ("/v1/feedback", {"feedback": [{"prediction_id": "mf.1." + "a" * 200, "label": 4}]}, 400, "prediction_id"),
        ("/v1/nothing?" + "&".join(f"a{n}=1" for n in range(300)), {}, 404, "no such path"),
        ("/v1/nothing", {}, 404, "no such path: /v1/nothing"),
        (
            "/v1/churn",
            {"customers": [{}, {}], "customer_ids": [1]},
            400,
            "customer_ids must name each of the 2 customers",
        ),
        ("/v2/models/mf%2Fx/infer", infer_body([1], [1]), 404, "no model 'mf/x'"),
        ("/v2/models/%FF/infer", infer_body([1], [1]), 400, "bytes that are not ASCII"),
        ("/v2/models//infer", infer_body([1], [1]), 405, "this path takes GET"),
        ("/v2/models/mf/versions/latest/infer", infer_body([1], [1]), 404, "versions are whole numbers, got 'latest'"),
    ],
)
def test_bad_requests_name_the_field(live: Live, path: str, body: dict, status: int, says: str) -> None:
    answer = live.http.post(path, json=body)
    assert (answer.status_code, says in answer.json()["error"]) == (status, True), answer.text


def test_bytes_that_are_no_json(live: Live) -> None:
    for content in (b"", b"{", b"\xff\xfe", b"[" * 5000):
        answer = live.http.post("/v1/churn", content=content)
        assert (answer.status_code, "the body cannot be used" in answer.json()["error"]) == (400, True), answer.text


def test_wrong_methods_and_large_bodies(live: Live) -> None:
    answer = live.http.get("/v1/churn")
    assert (answer.status_code, answer.headers["allow"]) == (405, "OPTIONS, POST")
    assert live.http.post("/v1/churn", content=b" " * 70_000).status_code == 413

    def drip():
        for _ in range(70):
            yield b" " * 1000

    assert live.http.post("/v1/churn", content=drip()).status_code == 413


def counted(live: Live, **labels: str) -> float:
    """Requests with these labels, as Prometheus would read it."""
    families = text_string_to_metric_families(live.http.get("/metrics").text)
    samples = [s for f in families for s in f.samples if s.name == "driftwheel_requests_total"]
    return sum(s.value for s in samples if labels.items() <= s.labels.items())


def test_every_request_is_counted_where_prometheus_finds_it(live: Live) -> None:
    def count(**labels: str) -> float:
        return counted(live, **labels)

    answered, refused = {"model": "mf", "arm": "stable", "protocol": "http", "code": "OK"}, {"code": "NOT_FOUND"}
    before = count(**answered), count(**refused)
    live.http.post("/v2/models/mf/infer", json=infer_body([7], [10]))
    live.http.post("/v2/models/none/infer", json=infer_body([7], [10]))
    assert (count(**answered), count(**refused)) == (before[0] + 1, before[1] + 1)


@pytest.mark.parametrize(
    ("method", "path", "content", "code"),
    [
        ("POST", "/v2/models/mf/infer", b"{", "INVALID_ARGUMENT"),
        ("POST", "/v2/models/mf/infer", b" " * 70_000, "RESOURCE_EXHAUSTED"),
        ("POST", "/v1/feedback", b'{"feedback": [{"prediction_id": "x", "label": 1}]}', "INVALID_ARGUMENT"),
        ("POST", "/v1/nothing", b"", "NOT_FOUND"),
        ("GET", "/v1/churn", b"", "UNIMPLEMENTED"),
        ("POST", "/v2/repository/models/mf/load", b"", "PERMISSION_DENIED"),
        ("POST", "/v2/models/mf/versions/9/infer", json.dumps(infer_body([7], [10])).encode(), "NOT_FOUND"),
        ("POST", "/v1/churn", b'{"customers": []}', "INVALID_ARGUMENT"),
    ],
)
def test_every_refusal_is_counted_once(live: Live, method: str, path: str, content: bytes, code: str) -> None:
    before = counted(live, code=code), counted(live)
    assert live.http.request(method, path, content=content).status_code >= 400
    assert (counted(live, code=code), counted(live)) == (before[0] + 1, before[1] + 1)


def test_a_page_of_another_site_is_refused(live: Live) -> None:
    answer = live.http.post("/v1/recommend", json={"user_id": 15}, headers={"sec-fetch-site": "cross-site"})
    assert (answer.status_code, answer.json()) == (403, {"error": "requests from pages of other sites are refused"})
    assert (
        live.http.post("/v1/recommend", json={"user_id": 15}, headers={"sec-fetch-site": "same-origin"}).status_code
        == 200
    )


def test_a_link_from_another_site_is_followed(live: Live) -> None:
    headers = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    assert live.http.get("/docs", headers=headers).status_code == 200
    assert live.http.post("/v1/recommend", json={"user_id": 15}, headers=headers).status_code == 403


@pytest.mark.parametrize(
    "path", ["/v2/models/mf", "/v2/models/mf/", "/v2/models/%6Df", "/v2/models/mf?verbose=1&x", "/v2//models/mf"]
)
def test_one_path_spelt_in_several_ways(live: Live, path: str) -> None:
    assert live.http.get(path).json()["name"] == "mf"


def test_methods_that_every_path_knows(live: Live) -> None:
    body, head = live.http.get("/v2/models/mf"), live.http.head("/v2/models/mf")
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", str(len(body.content)))
    options = live.http.options("/v2/models/mf")
    assert (options.status_code, options.headers["allow"], options.content) == (204, "GET, HEAD, OPTIONS", b"")
    for method in ("DELETE", "PATCH", "QUERY"):
        answer = live.http.request(method, "/v2/models/mf")
        assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD, OPTIONS")
        assert answer.json() == {"error": f"this path takes GET, HEAD, OPTIONS, got {method}"}


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("application/json", 200),
        ("application/json; charset=utf-8", 200),
        ("APPLICATION/JSON", 200),
        ("application/vnd.kserve+json", 200),
        ("application/x-www-form-urlencoded", 200),
        ("text/plain", 200),
        ("", 200),
        ("multipart/form-data; boundary=x", 415),
        ("application/xml", 415),
        ("text/html", 415),
    ],
)
def test_content_types(live: Live, kind: str, status: int) -> None:
    for path in ("/v2/models/mf/infer", "/v2/repository/index"):
        body = infer_body([7], [10]) if path.endswith("infer") else {}
        answer = live.http.post(path, content=json.dumps(body), headers={"content-type": kind})
        assert answer.status_code == status, answer.text
        if status == 415:
            assert f"must be application/json, got content-type '{kind.partition(';')[0]}'" in answer.json()["error"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b'{"user_id": NaN}', "invalid character"),
        (b'{"user_id": 1, "k": Infinity}', "invalid character"),
        (b'{"user_id": 1} x', "trailing characters"),
        (b'{"user_id": "\xff"}', "utf-8"),
        (b'{"user_id": ' + b"9" * 5000 + b"}", "out of range"),
        (b'{"user_id": 1, "k": 1e400}', "k"),
        (b'{"user_id": 1, "exclude": ' + b"[" * 3000 + b"]" * 3000 + b"}", "exclude"),
        (b"null", "Expected `object`"),
    ],
)
def test_json_that_is_odd(live: Live, text: bytes, says: str) -> None:
    answer = live.http.post("/v1/recommend", content=text)
    assert (answer.status_code, says in answer.json()["error"]) == (400, True), answer.text


def test_of_keys_that_come_twice_the_last_counts(live: Live) -> None:
    answer = live.http.post("/v1/recommend", content=b'{"user_id": 1, "user_id": 15, "k": 1}').json()
    assert answer["user_id"] == 15


def test_a_deadline_in_a_header(live: Live) -> None:
    body = infer_body([7], [10])
    assert (
        live.http.post("/v2/models/mf/infer", json=body, headers={"x-request-timeout-ms": "60000"}).status_code == 200
    )
    for path, content in (("/v2/models/mf/infer", body), ("/v1/churn", {"customers": [{}]})):
        answer = live.http.post(path, json=content, headers={"x-request-timeout-ms": "0"})
        assert (answer.status_code, answer.json()["error"]) == (504, "the deadline passed before the model ran")
    for value in ("x", "-1", "1.5", "", "9" * 30):
        answer = live.http.post("/v2/models/mf/infer", json=body, headers={"x-request-timeout-ms": value})
        assert (answer.status_code, "x-request-timeout-ms must be" in answer.json()["error"]) == (400, True)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)
FIELDS = (
    "user_id",
    "k",
    "exclude",
    "model",
    "version",
    "customers",
    "customer_ids",
    "feedback",
    "inputs",
    "parameters",
    "id",
)
PATHS = ("/v1/recommend", "/v1/churn", "/v1/feedback", "/v2/models/mf/infer", "/v2/repository/index")


@given(st.sampled_from(PATHS), st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=5) | JSON)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_body_makes_the_server_fail(live: Live, path: str, body: object) -> None:
    answer = live.http.post(path, content=json.dumps(body))
    assert answer.status_code in (200, 400, 404, 413), (body, answer.text)


CUSTOMER = st.dictionaries(st.sampled_from(["contract", "tenure", "other"]), JSON, max_size=3)


@given(st.lists(CUSTOMER, max_size=3))
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_customer_makes_the_server_fail(live: Live, customers: list) -> None:
    answer = live.http.post("/v1/churn", content=json.dumps({"customers": customers}))
    assert answer.status_code in (200, 400), (customers, answer.text)
