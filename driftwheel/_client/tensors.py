"""Numpy arrays as the Open Inference Protocol's raw tensors."""

import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

_LENGTH = struct.Struct("<I")

_NUMBERS = {
    "BOOL": "|b1",
    "UINT8": "|u1",
    "UINT16": "<u2",
    "UINT32": "<u4",
    "UINT64": "<u8",
    "INT8": "|i1",
    "INT16": "<i2",
    "INT32": "<i4",
    "INT64": "<i8",
    "FP16": "<f2",
    "FP32": "<f4",
    "FP64": "<f8",
}
_DATATYPES = {np.dtype(layout): name for name, layout in _NUMBERS.items()}


def encode(name: str, values: NDArray[Any]) -> tuple[str, bytes]:
    """The protocol's datatype and the bytes, little-endian; text in UTF-8 behind its length, None as no text.

    Raises:
        TypeError: The protocol has no such type.
    """
    if values.dtype.kind in "OUS":
        texts = [_text(value) for value in values.ravel().tolist()]
        return "BYTES", b"".join(_LENGTH.pack(len(text)) + text for text in texts)
    datatype = _DATATYPES.get(values.dtype.newbyteorder("<"))
    if datatype is None:
        raise TypeError(f"tensor {name!r} must hold numbers or text, got {values.dtype}")
    return datatype, values.astype(_NUMBERS[datatype], copy=False).tobytes()


def _text(value: object) -> bytes:
    if value is None:
        return b""
    return value if isinstance(value, bytes) else str(value).encode()


def decode(datatype: str, shape: list[int], raw: bytes) -> NDArray[Any]:
    """The array, read-only where it holds numbers; of text, an object array of bytes.

    Raises:
        ValueError: The bytes are not such a tensor.
    """
    if datatype != "BYTES":
        if datatype not in _NUMBERS:
            raise ValueError(f"no datatype is called {datatype!r}")
        return np.frombuffer(raw, dtype=_NUMBERS[datatype]).reshape(shape)
    texts: list[bytes] = []
    position = 0
    while position < len(raw):
        length = int.from_bytes(raw[position : position + _LENGTH.size], "little")
        position += _LENGTH.size + length
        texts.append(raw[position - length : position])
    if position != len(raw):
        raise ValueError("the last text is cut short")
    return np.array(texts, dtype=object).reshape(shape)
