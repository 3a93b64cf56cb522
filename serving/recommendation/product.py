"""Matrix products by onnxruntime, each a graph of one node.

numpy multiplies 8-bit numbers one by one; onnxruntime has kernels for them (AVX-512 VNNI, AVX2, NEON), four times as fast as
32-bit floats and on a quarter of the bytes. The graph is so small that it is written here, in protobuf's wire format:
the library that writes ONNX files is no part of a serving host.
"""

from typing import Any

import onnxruntime as ort
from numpy.typing import NDArray

_FLOAT, _UINT8, _INT8, _INT32 = 1, 2, 3, 6
"""Element types of ONNX's TensorProto."""
_IR_VERSION, _OPSET = 8, 10
"""MatMulInteger came with opset 10."""


class Product:
    """A matrix product on the calling thread: BLAS would start threads of its own beside the front door's. Thread-safe.

    ``Product.of_floats()``: float32 ``[n, d] @ [d, b]``. ``Product.of_integers()``: ``uint8 [n, d] @ int8 [d, b]`` as int32,
    exactly, and on every processor as long as the int8 numbers are within -64..64: without VNNI, two products are added
    in 16 bits with saturation.
    """

    def __init__(self, graph: bytes) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])

    @classmethod
    def of_floats(cls) -> "Product":
        """See above."""
        return cls(graph(b"MatMul", _FLOAT, _FLOAT, _FLOAT))

    @classmethod
    def of_integers(cls) -> "Product":
        """See above."""
        return cls(graph(b"MatMulInteger", _UINT8, _INT8, _INT32))

    def __call__(self, left: NDArray[Any], right: NDArray[Any]) -> NDArray[Any]:
        (product,) = self._session.run(None, {"left": left, "right": right})
        return product  # pyright: ignore[reportReturnType] (a dense tensor always comes back as an array)


def graph(operator: bytes, left: int, right: int, product: int) -> bytes:
    """An ONNX ModelProto of one node, ``product = operator(left, right)``, with these element types."""
    node = _field(1, b"left") + _field(1, b"right") + _field(2, b"product") + _field(4, operator)
    inputs = _field(11, _value(b"left", left)) + _field(11, _value(b"right", right))
    body = _field(1, node) + _field(2, b"product") + inputs + _field(12, _value(b"product", product))
    return _number(1, _IR_VERSION) + _field(7, body) + _field(8, _number(2, _OPSET))


def _value(name: bytes, element: int) -> bytes:
    """A ValueInfoProto: a matrix of any size."""
    shape = _field(1, b"") * 2
    return _field(1, name) + _field(2, _field(1, _number(1, element) + _field(2, shape)))


def _field(number: int, content: bytes) -> bytes:
    """A length-delimited field."""
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _number(number: int, value: int) -> bytes:
    return _varint(number << 3) + _varint(value)


def _varint(value: int) -> bytes:
    head = bytes([value & 0x7F | (0x80 if value > 0x7F else 0)])
    return head + (_varint(value >> 7) if value > 0x7F else b"")
