"""Bytes that no client of ours would send, into the parsers of REST bodies, without a server around them."""

import contextlib
import json
from types import SimpleNamespace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from driftwheel.errors import RequestError
from serving.transports.binary_tensors import LENGTH_HEADER
from serving.transports.forms import form_fields
from serving.transports.oip_json import InferBody
from serving.transports.routing import Request
from tests.bundles import CHURN_SIGNATURE, RATING_SIGNATURE

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
PARAMETERS = st.dictionaries(
    st.sampled_from(
        ["binary_data_size", "binary_data", "binary_data_output", "timeout", "routing_key", "classification"]
    ),
    JSON | st.integers(0, 32),
    max_size=3,
)
TENSOR = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["user_id", "item_id", "contract", "tenure", ""]),
        "datatype": st.sampled_from(["INT64", "FP32", "BYTES", "x"]),
        "shape": st.lists(st.integers(-1, 4), max_size=2),
    },
    optional={"data": st.lists(JSON, max_size=3), "parameters": PARAMETERS},
)
BODY = st.fixed_dictionaries(
    {"inputs": st.lists(TENSOR, max_size=3)},
    optional={
        "parameters": PARAMETERS,
        "outputs": st.lists(
            st.fixed_dictionaries({"name": st.sampled_from(["score", "x"]), "parameters": PARAMETERS}), max_size=2
        ),
    },
)


def version(signature: object) -> SimpleNamespace:
    return SimpleNamespace(signature=signature, limits=SimpleNamespace(max_rows_per_request=100))


@given(
    BODY.map(lambda body: json.dumps(body).encode()) | st.binary(max_size=60),
    st.binary(max_size=64),
    st.integers(-3, 3),
)
def test_infer_bodies(head: bytes, tail: bytes, slip: int) -> None:
    request = Request((), head + tail, [(LENGTH_HEADER, str(len(head) + slip).encode())])
    for signature in (RATING_SIGNATURE, CHURN_SIGNATURE):
        with contextlib.suppress(RequestError):
            columns, rows = InferBody(request).decode(version(signature))
            assert set(columns) == {spec.name for spec in signature.inputs}
            assert 1 <= rows <= 100


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=20))
def test_bytes_and_json_mean_the_same(values: list[int]) -> None:
    tensors = [{"name": name, "datatype": "INT64", "shape": [len(values)]} for name in ("user_id", "item_id")]
    as_json = {"inputs": [{**tensor, "data": values} for tensor in tensors]}
    sized = {"parameters": {"binary_data_size": 8 * len(values)}}
    head = json.dumps({"inputs": [{**tensor, **sized} for tensor in tensors]}).encode()
    tail = np.array(values, "<i8").tobytes()
    binary = Request((), head + tail + tail, [(LENGTH_HEADER, str(len(head)).encode())])
    columns, rows = InferBody(binary).decode(version(RATING_SIGNATURE))
    expected, _ = InferBody(Request((), json.dumps(as_json).encode())).decode(version(RATING_SIGNATURE))
    assert rows == len(values)
    for name, column in columns.items():
        assert bytes(column) == np.asarray(expected[name]).astype("<i8").tobytes()


PARTS = st.lists(
    st.sampled_from(
        [
            b"--b",
            b"\r\n",
            b"--",
            b'content-disposition: form-data; name="data"',
            b"content-disposition: form-data",
            b"[]",
            b":",
            b"\n",
        ]
    )
    | st.binary(max_size=6),
    max_size=30,
).map(b"".join)


@given(
    st.sampled_from(
        [b"multipart/form-data; boundary=b", b"multipart/form-data; boundary=", b"application/x-www-form-urlencoded"]
    ),
    PARTS,
)
def test_forms(kind: bytes, body: bytes) -> None:
    with contextlib.suppress(RequestError):
        fields = form_fields(Request((), body, [(b"content-type", kind)]))
        assert all(isinstance(value, bytes) for value in fields.values())


@given(st.binary(max_size=80))
def test_form_headers(kind: bytes) -> None:
    with contextlib.suppress(RequestError):
        form_fields(Request((), b"--b--", [(b"content-type", b"multipart/form-data; " + kind)]))
