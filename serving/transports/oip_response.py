"""ModelInferResponse without building one: most of its bytes are the same for every answer of a version.

Protobuf takes fields in any order, so that the part which repeats (names, version, arm, and the outputs' shapes for a
number of rows) is serialized once, and what is new to each answer is put behind it.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from numpy.typing import NDArray

from driftwheel.contracts import Arm
from serving._proto import open_inference_pb2 as pb

_ID, _PARAMETERS, _RAW_OUTPUT_CONTENTS = (field << 3 | 2 for field in (3, 4, 6))
_KEY, _VALUE, _STRING_PARAM = (field << 3 | 2 for field in (1, 2, 3))

_CACHED_SHAPES = 4096
"""Numbers of rows whose fixed part is kept, for each version and arm."""


def field(tag: int, content: bytes) -> bytes:
    """A length-delimited field of a protobuf message."""
    size = len(content)
    if size < 128:
        return bytes((tag, size)) + content
    length = bytearray()
    while size >= 128:
        length.append(size & 127 | 128)
        size >>= 7
    length.append(size)
    return bytes((tag,)) + length + content


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
        self._by_rows: dict[int, bytes] = {}

    def render(self, request_id: str, prediction_id: str, rows: int, outputs: Mapping[str, NDArray[Any]]) -> bytes:
        """A serialized ModelInferResponse.

        Args:
            request_id: What the caller called the request; empty: it is called by its prediction id.
            outputs: Float32 ``[rows]`` by name.
        """
        fixed = self._by_rows.get(rows)
        if fixed is None:
            if len(self._by_rows) >= _CACHED_SHAPES:
                self._by_rows.clear()
            fixed = self._by_rows[rows] = self._fixed(rows)
        encoded = prediction_id.encode()
        parameter = _PREDICTION_ID_KEY + field(_VALUE, field(_STRING_PARAM, encoded))
        raw = [field(_RAW_OUTPUT_CONTENTS, outputs[name].tobytes()) for name in self._outputs]
        named = field(_ID, request_id.encode() if request_id else encoded)
        return b"".join((fixed, named, field(_PARAMETERS, parameter), *raw))

    def _fixed(self, rows: int) -> bytes:
        response = pb.ModelInferResponse(
            model_name=self._model,
            model_version=str(self._version),
            outputs=[{"name": name, "datatype": "FP32", "shape": [rows]} for name in self._outputs],
        )
        response.parameters["arm"].string_param = self._arm
        return response.SerializeToString()


_PREDICTION_ID_KEY = field(_KEY, b"prediction_id")


@lru_cache(maxsize=256)
def response_template(model: str, version: int, arm: Arm, outputs: tuple[str, ...]) -> ResponseTemplate:
    """The template of a version, kept for as long as it is among the last that answered."""
    return ResponseTemplate(model, version, arm, outputs)
