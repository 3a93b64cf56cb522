"""Whatever comes, the whole application answers, and not with a fault of its own."""

import json
from random import Random

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from tests.fuzz.grpc_requests import grpc_request, valid_churn, valid_infer
from tests.fuzz.harness import InProcess
from tests.fuzz.http_requests import VALID, http_request
from tests.fuzz.mutations import BOMB
from tests.fuzz.wire import LIMIT, Wire

randoms = st.randoms(use_true_random=False)
many = settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
MODEL_INFER = b"/inference.GRPCInferenceService/ModelInfer"
GRPC = (b"content-type", b"application/grpc")


@pytest.mark.parametrize("valid", [valid_infer, valid_churn])
def test_the_seeds_of_the_grpc_requests_are_answered(application: InProcess, valid):
    for seed in range(20):
        message = valid(Random(seed)).SerializeToString()  # noqa: S311 (no secret)
        wire = Wire("POST", MODEL_INFER, [GRPC], [b"\0" + len(message).to_bytes(4, "big") + message])
        assert application.ask(wire).grpc_status == 0


@pytest.mark.parametrize(("method", "target", "value"), VALID)
def test_the_seeds_of_the_http_requests_are_answered(application: InProcess, method, target, value):
    body = b"" if value is None else json.dumps(value).encode()
    answer = application.ask(Wire(method, target, [(b"content-type", b"application/json")], [body]))
    assert answer.status == 200, answer.body


@given(rng=randoms)
@many
def test_grpc(application: InProcess, rng: Random):
    application.ask(grpc_request(rng))


@given(rng=randoms)
@many
def test_http(application: InProcess, rng: Random):
    application.ask(http_request(rng))


@given(body=st.binary(max_size=200), path=st.sampled_from((MODEL_INFER, b"/no.such.Service/Method")))
@many
def test_a_grpc_body_of_anything(application: InProcess, body: bytes, path: bytes):
    application.ask(Wire("POST", path, [GRPC], [body]))


@given(target=st.binary(max_size=60), query=st.binary(max_size=60), method=st.text(max_size=8))
@example(target=b"", query=b"", method="")
@example(target=b"/v2/models/%ff%fe/infer", query=b"", method="POST")
@many
def test_a_path_of_anything(application: InProcess, target: bytes, query: bytes, method: str):
    application.ask(Wire(method, target, [], [b""], query))


@given(
    name=st.binary(min_size=1, max_size=30),
    value=st.binary(max_size=60),
    kind=st.sampled_from((b"application/grpc", b"application/json")),
)
@many
def test_a_header_of_anything(application: InProcess, name: bytes, value: bytes, kind: bytes):
    assume(name.lower() != b"content-type")  # a gRPC method asked in another type is answered in HTTP's words
    target = MODEL_INFER if kind == GRPC[1] else b"/v2/models/mf/infer"
    application.ask(Wire("POST", target, [(b"content-type", kind), (name.lower(), value)], [b"{}"]))


@pytest.mark.parametrize("times", [1, 50])
def test_a_bomb_is_refused_for_its_size(application: InProcess, times: int):
    for _ in range(times):
        answer = application.ask(Wire("POST", b"/v1/recommend", [(b"content-encoding", b"gzip")], [BOMB]))
        assert answer.status == 413
        frame = b"\1" + len(BOMB).to_bytes(4, "big") + BOMB
        answer = application.ask(Wire("POST", MODEL_INFER, [GRPC, (b"grpc-encoding", b"gzip")], [frame]))
        assert answer.grpc_status == 8


@pytest.mark.parametrize("length", [LIMIT + 6, 100 * LIMIT])
def test_too_much_is_refused_whether_or_not_it_is_declared(application: InProcess, length: int):
    for headers in ([], [(b"content-length", str(length).encode())]):
        answer = application.ask(
            Wire("POST", b"/v1/recommend", headers, [bytes(length // 2), bytes(length - length // 2)])
        )
        assert answer.status == 413
