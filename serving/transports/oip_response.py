"""ModelInferResponse without building one: most of its bytes are the same for every answer of a version.

Protobuf takes fields in any order, so that the part which repeats (names, version, arm, and the outputs' shapes for a
number of rows) is serialized once, and what is new to each answer is put behind it.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache

from driftwheel.contracts import Arm
from serving._proto import open_inference_pb2 as pb
from serving.codec import Raw

_ID, _PARAMETERS, _RAW_OUTPUT_CONTENTS = (field << 3 | 2 for field in (3, 4, 6))
_KEY, _VALUE, _STRING_PARAM = (field << 3 | 2 for field in (1, 2, 3))

_CACHED_SHAPES = 4096
"""Numbers of rows whose fixed part is kept, for each version and arm."""


def field(tag: int, content: bytes) -> bytes:
    """A length-delimited field of a protobuf message."""
    return field_head(tag, len(content)) + content


def field_head(tag: int, size: int) -> bytes:
    """What comes before the content of a length-delimited field."""
    if size < 128:
        return bytes((tag, size))
    length = bytearray()
    while size >= 128:
        length.append(size & 127 | 128)
        size >>= 7
    length.append(size)
    return bytes((tag,)) + length


def text_parameter(name: str, value: str) -> bytes:
    """One more parameter of a ModelInferResponse, to be put behind it."""
    content = field(_VALUE, field(_STRING_PARAM, value.encode()))
    return field(_PARAMETERS, field(_KEY, name.encode()) + content)


class ResponseTemplate:
    """Answers of one version in one arm.

    Args:
        outputs: The outputs that are wanted, in this order.
    """

    def __init__(self, model: str, version: int, arm: Arm, outputs: Sequence[str]) -> None:
        self._model = model
        self._version = version
        self._arm = arm
        self._outputs = tuple(outputs)
        self._by_rows: dict[int, tuple[bytes, bytes]] = {}
        """What answers of so many rows have in common: their beginning, and what comes before each output's bytes."""

    def render(self, request_id: str, prediction_id: str, rows: int, outputs: Mapping[str, Raw]) -> bytes:
        """A serialized ModelInferResponse.

        Args:
            request_id: What the caller called the request; empty: it is called by its prediction id.
            outputs: Little-endian float32 ``[rows]`` by name.
        """
        fixed = self._by_rows.get(rows)
        if fixed is None:
            if len(self._by_rows) >= _CACHED_SHAPES:
                self._by_rows.clear()
            fixed = self._by_rows[rows] = self._fixed(rows), field_head(_RAW_OUTPUT_CONTENTS, 4 * rows)
        beginning, raw_head = fixed
        encoded = prediction_id.encode()
        id_head, parameter_head = _heads(len(encoded))
        named = (field(_ID, request_id.encode()),) if request_id else (id_head, encoded)
        parts: list[Raw] = [beginning, *named, parameter_head, encoded]
        for name in self._outputs:
            parts += (raw_head, outputs[name])
        return b"".join(parts)

    def _fixed(self, rows: int) -> bytes:
        response = pb.ModelInferResponse(
            model_name=self._model,
            model_version=str(self._version),
            outputs=[{"name": name, "datatype": "FP32", "shape": [rows]} for name in self._outputs],
        )
        response.parameters["arm"].string_param = self._arm
        return response.SerializeToString()


@lru_cache(maxsize=256)
def _heads(size: int) -> tuple[bytes, bytes]:
    """What comes before a prediction id of so many bytes: as the answer's id, and as its parameter."""
    value = field(_STRING_PARAM, bytes(size))
    parameter = field(_PARAMETERS, field(_KEY, b"prediction_id") + field(_VALUE, value))
    return field_head(_ID, size), parameter[:-size] if size else parameter


@lru_cache(maxsize=256)
def response_template(model: str, version: int, arm: Arm, outputs: tuple[str, ...]) -> ResponseTemplate:
    """The template of a version, kept for as long as it is among the last that answered."""
    return ResponseTemplate(model, version, arm, outputs)
