"""Tensors as bytes behind the JSON of a body: Triton's "binary tensor data" extension, for requests and answers.

The header ``Inference-Header-Content-Length`` says how long the JSON is. Each tensor that comes as bytes says how many with
its parameter ``binary_data_size``, and the bytes follow in the order in which the JSON lists the tensors.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from driftwheel.errors import InvalidRequestError

LENGTH_HEADER = b"inference-header-content-length"


def split_body(body: bytes, json_length: bytes | None) -> tuple[bytes, bytes]:
    """The JSON of a body, and the bytes of its tensors.

    Args:
        json_length: The header's value; None where the whole body is JSON.

    Raises:
        InvalidRequestError: The header is not a length within the body.
    """
    if json_length is None:
        return body, b""
    if not (json_length.isdigit() and len(json_length) < 12 and int(json_length) <= len(body)):
        raise InvalidRequestError(
            "header Inference-Header-Content-Length must be the length of the JSON within the body of "
            f"{len(body)} bytes, got {json_length.decode('latin-1')[:40]!r}"
        )
    length = int(json_length)
    if length == 0:
        raise InvalidRequestError(
            "Inference-Header-Content-Length is 0: bytes without JSON are only for models with one input; "
            "send the JSON that says which input each part is"
        )
    return body[:length], body[length:]


def cut_tensors(tail: bytes, tensors: Sequence[tuple[str, Mapping[str, Any]]]) -> dict[str, bytes]:
    """The bytes of each tensor that came so, by name.

    Args:
        tail: What follows the JSON.
        tensors: Names and parameters, in the order of the JSON.

    Raises:
        InvalidRequestError: The sizes do not add up to the bytes that came.
    """
    cut: dict[str, bytes] = {}
    position = 0
    for name, parameters in tensors:
        if "shared_memory_region" in parameters:
            raise InvalidRequestError(
                f"input {name!r} names a shared memory region; tensors must come with the request"
            )
        size = parameters.get("binary_data_size")
        if size is None:
            continue
        if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= len(tail) - position:
            raise InvalidRequestError(
                f"input {name!r}: binary_data_size must be at most the {len(tail) - position} bytes left, got {size!r}"
            )
        cut[name] = tail[position : position + size]
        position += size
    if position != len(tail):
        raise InvalidRequestError(f"the body has {len(tail) - position} bytes after its tensors")
    return cut


def wants_binary(name: str, parameters: Mapping[str, Any], default: bool) -> bool:  # noqa: FBT001 (a parameter's value)
    """Whether an output is asked for as bytes.

    Raises:
        InvalidRequestError: The parameter is not a boolean, or asks for what is not done here.
    """
    if parameters.get("classification"):
        raise InvalidRequestError(f"output {name!r}: classification is not offered; ask for the tensor")
    if "shared_memory_region" in parameters:
        raise InvalidRequestError(f"output {name!r} names a shared memory region; tensors go with the answer")
    return boolean_parameter(parameters, "binary_data", default=default)


def boolean_parameter(parameters: Mapping[str, Any], name: str, *, default: bool = False) -> bool:
    """A parameter that is true, false or absent.

    Raises:
        InvalidRequestError: It is something else.
    """
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise InvalidRequestError(f"parameter {name!r} must be true or false, got {str(value)[:40]!r}")
    return value
