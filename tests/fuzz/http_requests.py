"""HTTP requests: valid ones, and what damage makes of them."""

from random import Random
from typing import Any

import numpy as np

from tests.fuzz.mutations import damaged_bytes, damaged_value, json_text, packed, pieces
from tests.fuzz.wire import Headers, Wire

_INFER = {
    "id": "a",
    "inputs": [
        {"name": "user_id", "datatype": "INT64", "shape": [2], "data": [7, 15]},
        {"name": "item_id", "datatype": "INT64", "shape": [2], "data": [10, 20]},
    ],
    "outputs": [{"name": "score", "parameters": {"binary_data": False}}],
    "parameters": {"timeout": 1_000_000, "routing_key": "a", "binary_data_output": False},
}
_CHURN_INFER = {
    "inputs": [
        {"name": "contract", "datatype": "BYTES", "shape": [1], "data": ["One year"]},
        {"name": "tenure", "datatype": "FP32", "shape": [1], "data": [1.5]},
    ]
}
VALID: tuple[tuple[str, bytes, Any], ...] = (
    ("POST", b"/v2/models/mf/infer", _INFER),
    ("POST", b"/v2/models/mf/infer", _INFER),
    ("POST", b"/v2/models/mf/versions/1/infer", _INFER),
    ("POST", b"/v2/models/churn/infer", _CHURN_INFER),
    ("POST", b"/v1/recommend", {"user_id": 7, "k": 2, "exclude": [10], "version": 1}),
    ("POST", b"/v1/recommend", {"user_id": 99, "k": 1}),
    ("POST", b"/v1/churn", {"customers": [{"contract": "One year", "tenure": 1}], "customer_ids": [1]}),
    ("POST", b"/v1/feedback", {"feedback": [{"prediction_id": "mf.1.0123456789ab", "row": 0, "label": 4.0}]}),
    ("POST", b"/predictions/mf", [{"user_id": 7, "item_id": 10}]),
    ("POST", b"/predictions/mf/1.0", {"instances": [{"user_id": 7, "item_id": 10}]}),
    ("PUT", b"/predictions/churn", {"contract": "One year", "tenure": None}),
    ("GET", b"/models", None),
    ("GET", b"/models/mf", None),
    ("GET", b"/ping", None),
    ("GET", b"/v2", None),
    ("GET", b"/v2/models/mf", None),
    ("GET", b"/v2/models/mf/versions/1", None),
    ("GET", b"/v2/models/mf/versions/1/ready", None),
    ("GET", b"/v2/models/mf/config", None),
    ("GET", b"/v2/models/mf/stats", None),
    ("GET", b"/v2/health/ready", None),
    ("POST", b"/v2/repository/index", {"ready": True}),
    ("GET", b"/docs", None),
    ("GET", b"/openapi.json", None),
    ("GET", b"/metrics", None),
)
"""Requests that a client might send."""

_PARTS = (
    b"..",
    b".",
    b"",
    b"%2F",
    b"%",
    b"%zz",
    b"%00",
    b"\xff",
    b"9" * 30,
    b"-1",
    b"1.0",
    b"x" * 300,
    b"mf",
    b"%E2%82%AC",
)
_QUERIES = (
    b"",
    b"limit=1",
    b"limit=-1",
    b"limit=x&next_page_token=9",
    b"a=" + b"&" * 2000,
    b"%ff=%00",
    b"=",
    b"limit=" + b"9" * 5000,
)


def http_request(rng: Random) -> Wire:
    """An HTTP request."""
    method, target, value = rng.choice(VALID)
    headers: Headers = []
    body = b"" if value is None else _http_body(rng, value, target, headers)
    if rng.random() < 0.15:
        parts = target.split(b"/")
        parts[rng.randrange(1, len(parts))] = rng.choice(_PARTS)
        target = b"/".join(parts)
    if rng.random() < 0.05:
        target = damaged_bytes(rng, target)
    if rng.random() < 0.05:
        method = rng.choice(("GET", "POST", "PUT", "HEAD", "OPTIONS", "DELETE", "TRACE", "", "G\0T"))
    if rng.random() < 0.15:
        encoding, body = packed(rng, body)
        headers.append((b"content-encoding", encoding))
    headers += [_http_header(rng) for _ in range(rng.choice((0, 0, 1, 2)))]
    query = rng.choice(_QUERIES) if rng.random() < 0.1 else b""
    return Wire(method, target, headers, pieces(rng, body), query, leaves=rng.random() < 0.02)


def _http_body(rng: Random, value: Any, target: bytes, headers: Headers) -> bytes:
    kind = rng.randrange(10)
    if kind < 6:
        value = damaged_value(rng, value)
    if kind == 6 and b"infer" in target:
        return _with_binary_tensors(rng, headers)
    if kind == 7 and b"predictions" in target:
        return _form(rng, json_text(rng, value), headers)
    headers.append((b"content-type", b"application/json"))
    body = json_text(rng, value)
    return damaged_bytes(rng, body) if kind == 8 else body


def _with_binary_tensors(rng: Random, headers: Headers) -> bytes:
    """Tensors behind the JSON; sizes and lengths are right half of the time."""
    tail = np.array([7, 15, 10, 20], "<i8").tobytes()
    inputs = [
        {"name": name, "datatype": "INT64", "shape": [2], "parameters": {"binary_data_size": 16}}
        for name in ("user_id", "item_id")
    ]
    value: Any = {"inputs": inputs, "parameters": {"binary_data_output": True}}
    if rng.random() < 0.5:
        value = damaged_value(rng, value)
    head = json_text(rng, value)
    lengths = (len(head), len(head), len(head), len(head) - 1, len(head) + 1, 0, -1, 10**11, len(head) + len(tail))
    headers.append((b"inference-header-content-length", str(rng.choice(lengths)).encode()))
    return head + (damaged_bytes(rng, tail) if rng.random() < 0.3 else tail)


def _form(rng: Random, content: bytes, headers: Headers) -> bytes:
    if rng.random() < 0.3:
        headers.append((b"content-type", b"application/x-www-form-urlencoded"))
        return b"data=" + content
    headers.append(
        (
            b"content-type",
            rng.choice((b"multipart/form-data; boundary=b", b"multipart/form-data", b"multipart/form-data; boundary=")),
        )
    )
    body = b'--b\r\nContent-Disposition: form-data; name="data"; filename="x"\r\n\r\n' + content + b"\r\n--b--\r\n"
    return damaged_bytes(rng, body) if rng.random() < 0.5 else body


def _http_header(rng: Random) -> tuple[bytes, bytes]:
    name, values = rng.choice(
        (
            (
                b"content-type",
                (b"", b"text/plain", b"application/json; charset=latin-1", b"\xff", b"application/octet-stream"),
            ),
            (b"accept-encoding", (b"gzip", b"*;q=0", b"gzip;q=x", b";;,,", b"deflate;q=1e999", b"\xff")),
            (b"x-request-timeout-ms", (b"1000", b"0", b"-1", b"1e3", b"9" * 20, b"\xb2")),
            (b"content-length", (b"0", b"-1", b"99999999999", b"\xb2", b"1,1")),
            (b"authorization", (b"", b"Bearer", b"Bearer x", b"\xff")),
            (b"inference-header-content-length", (b"0", b"5", b"-1", b"\xb2", b"999999999999")),
            (b"sec-fetch-site", (b"cross-site", b"none")),
            (b"traceparent", (b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", b"00-x", b"\xff")),
            (b"expect", (b"100-continue",)),
        )
    )
    return name, rng.choice(values)
