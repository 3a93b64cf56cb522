"""Server reflection, asked by grpcio's own client, and in its newer version by hand."""

from collections.abc import Generator

import grpc
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from serving._proto import reflection_v1_pb2 as pb
from tests.serving.conftest import Live

pytestmark = pytest.mark.system

SERVICES = [
    "driftwheel.v1.Recommender",
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
    "inference.GRPCInferenceService",
    "org.pytorch.serve.grpc.inference.InferenceAPIsService",
]


@pytest.fixture
def channel(live: Live) -> Generator[grpc.Channel]:
    with grpc.insecure_channel(live.address.target) as channel:
        yield channel


def test_services_and_their_messages_are_found(channel: grpc.Channel) -> None:
    database = ProtoReflectionDescriptorDatabase(channel)
    assert list(database.get_services()) == SERVICES
    pool = DescriptorPool(database)
    for name in SERVICES:
        service = pool.FindServiceByName(name)
        assert service.methods
    assert pool.FindFileByName("torchserve_inference.proto").dependencies[0].name == "google/protobuf/empty.proto"


def test_a_call_without_any_proto_file(channel: grpc.Channel) -> None:
    pool = DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
    method = pool.FindServiceByName("inference.GRPCInferenceService").FindMethodByName("ModelReady")
    request, response = GetMessageClass(method.input_type), GetMessageClass(method.output_type)
    call = channel.unary_unary(
        "/inference.GRPCInferenceService/ModelReady", request.SerializeToString, response.FromString
    )
    assert call(request(name="mf"), timeout=60).ready


def test_what_is_not_there(channel: grpc.Channel) -> None:
    database = ProtoReflectionDescriptorDatabase(channel)
    with pytest.raises(KeyError):
        database.FindFileByName("nope.proto")
    with pytest.raises(KeyError):
        database.FindFileContainingSymbol("inference.Nope")
    with pytest.raises(KeyError):
        database.FindAllExtensionNumbers("inference.Nope")
    assert list(database.FindAllExtensionNumbers("inference.ModelInferRequest")) == []


def test_the_newer_version_answers_each_request_of_a_stream(channel: grpc.Channel) -> None:
    info = channel.stream_stream(
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        pb.ServerReflectionRequest.SerializeToString,
        pb.ServerReflectionResponse.FromString,
    )
    requests = [
        pb.ServerReflectionRequest(host="h", list_services=""),
        pb.ServerReflectionRequest(file_containing_symbol="grpc.health.v1.Health.Check"),
        pb.ServerReflectionRequest(),
        pb.ServerReflectionRequest(file_by_filename="nope.proto"),
        pb.ServerReflectionRequest(
            file_containing_extension={"containing_type": "inference.ModelInferRequest", "extension_number": 100}
        ),
    ]
    services, symbol, nothing, missing, extension = info(iter(requests), timeout=60)
    assert services.valid_host == "h"
    assert [service.name for service in services.list_services_response.service] == SERVICES
    assert len(symbol.file_descriptor_response.file_descriptor_proto) == 1
    assert [answer.error_response.error_code for answer in (nothing, missing, extension)] == [3, 5, 5]
    assert extension.error_response.error_message == "inference.ModelInferRequest has no extension 100"
    assert missing.original_request == requests[3]
