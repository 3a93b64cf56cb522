"""Our messages are the protocols' own: every field has the number and type that others' generated code gives it."""

import itertools
import subprocess
import sys

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor, FileDescriptor
from grpc_health.v1 import health_pb2 as others_health
from grpc_reflection.v1alpha import reflection_pb2 as others_reflection

from serving._proto import health_pb2, open_inference_pb2, reflection_v1_pb2, reflection_v1alpha_pb2
from tests.serving.transports.other_clients import kserve_pb, triton_config_pb, triton_pb

OURS = open_inference_pb2.DESCRIPTOR

NOT_TRITONS = {
    # The protocol's answers to a load and an unload have these; Triton's are empty, and its clients skip what they do not know.
    ("RepositoryModelLoadResponse", "model_name"),
    ("RepositoryModelLoadResponse", "isLoaded"),
    ("RepositoryModelUnloadResponse", "model_name"),
    ("RepositoryModelUnloadResponse", "isUnloaded"),
}
NOT_KSERVES = {
    # Triton puts the repository's name where the protocol has the model's; both are read.
    ("RepositoryModelLoadRequest", "model_name"),
    ("RepositoryModelLoadRequest", "repository_name"),
    ("RepositoryModelLoadRequest", "parameters"),
    ("RepositoryModelUnloadRequest", "model_name"),
    ("RepositoryModelUnloadRequest", "repository_name"),
    ("RepositoryModelUnloadRequest", "parameters"),
    ("InferParameter", "double_param"),
    ("InferParameter", "uint64_param"),
}


def shape(field: FieldDescriptor) -> tuple:
    kind = (field.message_type or field.enum_type).name if field.type in (11, 14) else None
    oneof = field.containing_oneof.name if field.containing_oneof else None
    return field.number, field.type, field.is_repeated, kind, oneof


def fields(file: FileDescriptor) -> dict[tuple[str, str], tuple]:
    def of(message: Descriptor, name: str) -> list:
        own = [((name, field.name), shape(field)) for field in message.fields]
        return own + [pair for nested in message.nested_types for pair in of(nested, f"{name}.{nested.name}")]

    return dict(pair for name, message in file.message_types_by_name.items() for pair in of(message, name))


@pytest.mark.parametrize(
    ("ours", "theirs", "beside"),
    [
        (OURS, {**fields(triton_pb.DESCRIPTOR), **fields(triton_config_pb.DESCRIPTOR)}, NOT_TRITONS),
        (health_pb2.DESCRIPTOR, fields(others_health.DESCRIPTOR), set()),
        (reflection_v1alpha_pb2.DESCRIPTOR, fields(others_reflection.DESCRIPTOR), set()),
        (reflection_v1_pb2.DESCRIPTOR, fields(others_reflection.DESCRIPTOR), set()),
    ],
    ids=["triton", "health", "reflection-v1alpha", "reflection-v1"],
)
def test_every_field_of_ours_is_theirs(ours: FileDescriptor, theirs: dict, beside: set) -> None:
    assert {name: shape for name, shape in fields(ours).items() if name not in beside} == {
        name: theirs.get(name) for name in fields(ours) if name not in beside
    }


def test_every_field_of_the_protocol_is_ours() -> None:
    ours, theirs = fields(OURS), fields(kserve_pb.DESCRIPTOR)
    assert {name: ours.get(name) for name in theirs if name not in NOT_KSERVES} == {
        name: shape for name, shape in theirs.items() if name not in NOT_KSERVES
    }


@pytest.mark.parametrize("theirs", [triton_pb, triton_config_pb, others_health], ids=lambda module: module.__name__)
def test_every_enum_value_of_ours_is_theirs(theirs) -> None:
    for ours in (OURS, health_pb2.DESCRIPTOR):
        for name, values in enums(ours).items():
            assert enums(theirs.DESCRIPTOR).get(name, values) == values


def enums(file: FileDescriptor) -> dict[str, list[tuple[str, int]]]:
    nested = itertools.chain.from_iterable(m.enum_types for m in file.message_types_by_name.values())
    return {e.full_name: [(v.name, v.number) for v in e.values] for e in [*file.enum_types_by_name.values(), *nested]}


def test_every_method_has_tritons_messages() -> None:
    ours = OURS.services_by_name["GRPCInferenceService"].methods_by_name
    theirs = triton_pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods_by_name
    for name, method in ours.items():
        assert kind(method) == kind(theirs[name])


def kind(method) -> tuple:
    return method.input_type.full_name, method.output_type.full_name, method.client_streaming, method.server_streaming


def test_our_client_works_beside_tritons() -> None:
    """Theirs describes messages of the same names; ours do not get into its way."""
    subprocess.run([sys.executable, "-c", "import driftwheel.client, tritonclient.grpc"], check=True)
