"""Tokens by role over gRPC, and Triton's client as an admin that loads and unloads."""

from collections.abc import Generator

import grpc
import numpy as np
import pytest

from serving._proto import open_inference_pb2 as pb
from serving.front_door import running
from serving.tokens import Role, add_token
from tests.serving.conftest import Live, connected, prepared_home, rating_request, scores_of
from tests.serving.transports.other_clients import triton

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Generator[tuple[Live, dict[Role, dict[str, str]]]]:
    """A server with a token for each role, and the headers that bear them."""
    home = tmp_path_factory.mktemp("home")
    tokens = {role: add_token(home / "tokens.toml", role, frozenset({role})) for role in Role}
    settings = prepared_home(home)
    with running(settings) as (door, address), connected(settings, door, address) as live:
        yield live, {role: {"authorization": f"Bearer {token}"} for role, token in tokens.items()}


def code_of(call, *arguments, **options) -> grpc.StatusCode | None:
    try:
        call(*arguments, timeout=60, **options)
    except grpc.RpcError as error:
        return error.code()
    return None


def test_each_method_asks_for_its_role(guarded) -> None:
    live, headers = guarded
    metadata = {role: tuple(header.items()) for role, header in headers.items()}
    infer = live.stub.ModelInfer, rating_request([7], [10])
    assert code_of(*infer) == grpc.StatusCode.UNAUTHENTICATED
    assert code_of(*infer, metadata=(("authorization", "Bearer wrong"),)) == grpc.StatusCode.UNAUTHENTICATED
    assert code_of(*infer, metadata=metadata[Role.FEEDBACK]) == grpc.StatusCode.PERMISSION_DENIED
    assert code_of(*infer, metadata=metadata[Role.INFER]) is None
    assert code_of(*infer, metadata=metadata[Role.ADMIN]) is None
    load = live.stub.RepositoryModelLoad, pb.RepositoryModelLoadRequest(model_name="mf")
    assert code_of(*load, metadata=metadata[Role.INFER]) == grpc.StatusCode.PERMISSION_DENIED
    for ready in (live.stub.ServerLive, pb.ServerLiveRequest()), (live.stub.ServerReady, pb.ServerReadyRequest()):
        assert code_of(*ready) is None


def test_a_stream_asks_for_its_role(guarded) -> None:
    live, headers = guarded
    with pytest.raises(grpc.RpcError) as refused:
        next(live.stub.ModelStreamInfer(iter([rating_request([7], [10])]), timeout=60))
    assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED
    metadata = tuple(headers[Role.INFER].items())
    (answer,) = live.stub.ModelStreamInfer(iter([rating_request([7], [10])]), timeout=60, metadata=metadata)
    assert scores_of(answer.infer_response) == pytest.approx([3.1])


def test_triton_loads_and_unloads(guarded) -> None:
    live, headers = guarded
    admin = headers[Role.ADMIN]
    with triton.InferenceServerClient(live.address.target) as client:
        client.unload_model("churn", headers=admin)
        assert not client.is_model_ready("churn", headers=admin)
        client.load_model("churn", headers=admin)
        assert client.is_model_ready("churn", headers=admin)
        with pytest.raises(triton.InferenceServerException, match="no rollout names the model 'nope'"):
            client.load_model("nope", headers=admin)
        with pytest.raises(triton.InferenceServerException, match="parameter 'config' is unknown; there is 'version'"):
            client.load_model("mf", headers=admin, config="{}")


def test_a_version_is_loaded_beside_the_rollouts(guarded) -> None:
    live, headers = guarded
    metadata = tuple(headers[Role.ADMIN].items())
    pinned = rating_request([7], [10], model_version="2")
    assert code_of(live.stub.ModelInfer, pinned, metadata=metadata) == grpc.StatusCode.NOT_FOUND
    for version in {"int64_param": 2}, {"string_param": "2"}:
        load = pb.RepositoryModelLoadRequest(model_name="mf", parameters={"version": version})
        live.stub.RepositoryModelLoad(load, timeout=20, metadata=metadata)
        answer = live.stub.ModelInfer(pinned, timeout=60, metadata=metadata)
        assert np.array(scores_of(answer)) == pytest.approx([3.35])
        unload = pb.RepositoryModelUnloadRequest(model_name="mf", parameters={"version": version})
        live.stub.RepositoryModelUnload(unload, timeout=20, metadata=metadata)
        assert code_of(live.stub.ModelInfer, pinned, metadata=metadata) == grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize(
    ("request_", "code", "says"),
    [
        ({}, "INVALID_ARGUMENT", "model_name must name a model"),
        (
            {"model_name": "mf", "parameters": {"version": {"bool_param": True}}},
            "INVALID_ARGUMENT",
            "'version' must be",
        ),
        ({"model_name": "mf", "parameters": {"version": {"int64_param": -1}}}, "NOT_FOUND", "whole numbers, got '-1'"),
        ({"model_name": "mf", "parameters": {"version": {"int64_param": 77}}}, "NOT_FOUND", "77"),
        ({"repository_name": "nope"}, "NOT_FOUND", "no rollout names the model 'nope'"),  # the protocol's model_name
    ],
)
def test_bad_loads_say_why(guarded, request_: dict, code: str, says: str) -> None:
    live, headers = guarded
    with pytest.raises(grpc.RpcError) as refused:
        live.stub.RepositoryModelLoad(
            pb.RepositoryModelLoadRequest(**request_), timeout=20, metadata=tuple(headers[Role.ADMIN].items())
        )
    assert (refused.value.code().name, says in refused.value.details()) == (code, True), refused.value.details()
