"""The pool that holds our messages: apart from the process's own, so that a program may use our client beside Triton's or
KServe's, whose modules describe messages of the same names.
"""

from functools import cache

from google.protobuf import empty_pb2
from google.protobuf.descriptor_pool import DescriptorPool


@cache
def Default() -> DescriptorPool:  # noqa: N802 (generated modules call it by this name; see proto/generate.sh)
    """The one pool."""
    pool = DescriptorPool()
    pool.AddSerializedFile(empty_pb2.DESCRIPTOR.serialized_pb)
    return pool
