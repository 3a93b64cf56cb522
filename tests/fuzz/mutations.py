"""Damage: to bytes, to JSON values, to JSON text. All choices come from the ``Random`` that is passed in."""

import copy
import gzip
import json
import zlib
from collections.abc import Callable
from random import Random
from typing import Any

INTERESTING: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 2**31, 2**32, 2**53 + 1, 2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 2**64, 10**400,
    0.5, -0.0, 1e-400, 3.5e38, 1e39, 1.7e308, "", "7", "mf", "é", "\0", "x" * 300, "INT64", "FP32", "BYTES", "BOOL",
    [], {}, [[]], [None], [7, "7"], {"": 0}, {"binary_data_size": 8}, {"binary_data_size": -1}, [[1, 2], [3]],
)  # fmt: skip

RAW_JSON = (
    b"NaN", b"Infinity", b"-", b"1e999", b"-1e999", b"9" * 5000, b"0." + b"1" * 5000, b"[" * 3000, b'{"a":' * 3000,
    b'"\\ud800"', b'"\\u0000"', b"\xff", b"\xc0\x80", b"", b"nul", b"01", b"/**/", b"'a'", b"\xef\xbb\xbf{}",
)  # fmt: skip

INTERESTING_BYTES = (
    b"",
    b"\0",
    b"\xff",
    b"\xff" * 8,
    b"\x80" * 12,
    b"\0" * 64,
    b"%",
    b"\r\n",
    b"7",
    b"\x7f\xff\xff\xff",
)

BOMB = gzip.compress(bytes(4 * 2**20))
"""A few kilobytes that become four megabytes."""


def damaged_bytes(rng: Random, data: bytes) -> bytes:
    """One to four cuts, copies and changes."""
    for _ in range(rng.randrange(1, 5)):
        start = rng.randrange(len(data) + 1)
        end = min(len(data), start + rng.choice((1, 1, 2, 4, 8, 64)))
        put = rng.choice(
            (b"", rng.randbytes(rng.choice((1, 1, 4, 9))), rng.choice(INTERESTING_BYTES), data[:start][-64:])
        )
        data = data[:start] + put + data[rng.choice((start, end)) :]
    return data


def damaged_value(rng: Random, value: Any) -> Any:
    """A JSON value with one to three of its parts changed, left out, added or doubled."""
    root = [copy.deepcopy(value)]
    for _ in range(rng.randrange(1, 4)):
        holder, key = rng.choice(list(_places(root)))
        rng.choice((_replace, _replace, _drop, _add, _double))(rng, holder, key)
    return root[0] if root else None


def _places(holder: Any) -> list[tuple[Any, Any]]:
    """Everything in a value that can be changed, as a container and a key."""
    keys = list(holder) if isinstance(holder, dict) else range(min(len(holder), 20))
    places = []
    for key in keys:
        places.append((holder, key))
        if isinstance(holder[key], (dict, list)):
            places += _places(holder[key])
    return places


def _replace(rng: Random, holder: Any, key: Any) -> None:
    holder[key] = copy.deepcopy(rng.choice(INTERESTING))


def _drop(rng: Random, holder: Any, key: Any) -> None:
    del rng
    if len(holder) > 1:
        del holder[key]


def _add(rng: Random, holder: Any, key: Any) -> None:
    inner = holder[key]
    if isinstance(inner, dict):
        name = rng.choice(("", "x", "parameters", "timeout", "routing_key", "data", "id", "version"))
        inner[name] = copy.deepcopy(rng.choice(INTERESTING))
    elif isinstance(inner, list):
        inner.insert(rng.randrange(len(inner) + 1), copy.deepcopy(rng.choice(INTERESTING)))


def _double(rng: Random, holder: Any, key: Any) -> None:
    del rng
    if isinstance(holder[key], list):
        holder[key] = holder[key] * 2


def json_text(rng: Random, value: Any) -> bytes:
    """A value as JSON; now and then with a token in it that no writer makes."""
    text = json.dumps(value, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")
    if rng.random() < 0.15:
        start = rng.randrange(len(text) + 1)
        text = text[:start] + rng.choice(RAW_JSON) + text[rng.choice((start, min(len(text), start + 3))) :]
    return text


PACKED: dict[bytes, Callable[[bytes], bytes]] = {
    b"gzip": gzip.compress,
    b"deflate": zlib.compress,
    b"identity": lambda data: data,
    b"br": lambda data: data,
    b"gzip, gzip": lambda data: gzip.compress(gzip.compress(data)),
    b"\xff": lambda data: data,
}
"""Content encodings, known and unknown."""


def packed(rng: Random, data: bytes) -> tuple[bytes, bytes]:
    """An encoding's name, and data in it: whole, damaged, or far larger than it looks."""
    name = rng.choice(list(PACKED))
    data = PACKED[name](data)
    kind = rng.randrange(8)
    if kind == 0:
        return name, damaged_bytes(rng, data)
    if kind == 1:
        return name, BOMB
    return name, data


def pieces(rng: Random, body: bytes) -> list[bytes]:
    """A body in one piece or several, as it may come."""
    chunks = []
    while body and len(chunks) < 6 and rng.random() < 0.3:
        cut = rng.randrange(len(body) + 1)
        chunks.append(body[:cut])
        body = body[cut:]
    return [*chunks, body]
