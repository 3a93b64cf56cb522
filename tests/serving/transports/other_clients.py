"""Clients that others wrote.

Triton's and KServe's describe messages of the same names differently, and put them into the process's one pool: only one of
them can be imported there. Here each gets a pool of its own.
"""

import contextlib
from collections.abc import Generator
from unittest import mock

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import Default, DescriptorPool


class _InferenceApart:
    """A pool for the package ``inference``, and the process's for all others."""

    def __init__(self) -> None:
        self._own = DescriptorPool()

    def AddSerializedFile(self, serialized: bytes) -> FileDescriptor:  # noqa: N802
        apart = FileDescriptorProto.FromString(serialized).package == "inference"
        return (self._own if apart else Default()).AddSerializedFile(serialized)


@contextlib.contextmanager
def apart() -> Generator[None]:
    """Modules first imported in here describe their inference messages in a pool of their own."""
    with mock.patch("google.protobuf.descriptor_pool.Default", return_value=_InferenceApart()):
        yield


with apart():
    import tritonclient.grpc as triton
    import tritonclient.grpc.aio as triton_aio
    from tritonclient.grpc import model_config_pb2 as triton_config_pb
    from tritonclient.grpc import service_pb2 as triton_pb

with apart():
    import kserve
    from kserve.protocol.grpc import grpc_predict_v2_pb2 as kserve_pb

__all__ = ["kserve", "kserve_pb", "triton", "triton_aio", "triton_config_pb", "triton_pb"]
