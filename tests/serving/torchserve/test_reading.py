"""A worker that reads ahead understands what TorchServe's own reading does: its parser, over real sockets."""

import importlib
import importlib.util
import socket
import struct
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from driftwheel.bundle import Bundle
from tests.serving.torchserve.in_worker import raw, served, unpacked

pytest.importorskip("ts", reason="needs torchserve")
pytestmark = pytest.mark.usefixtures("_as_in_a_worker")


Read = Callable[[socket.socket, int], bytes]

protocol: Any = importlib.import_module("ts.protocol.otf_message_handler")


@pytest.fixture
def read_ahead(bundles: Mapping[tuple[str, int], Bundle], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Read:
    """What a handler that has loaded puts in place of TorchServe's own."""
    theirs = torchserves()
    monkeypatch.setattr(protocol, "_retrieve_buffer", theirs)  # put back afterwards
    served(bundles["mf", 1], unpacked(bundles["mf", 1], tmp_path)).start()
    assert protocol._retrieve_buffer is not theirs
    return protocol._retrieve_buffer


def torchserves() -> Read:
    """TorchServe's own reading, from a fresh copy of its module: handlers of other tests may have replaced it."""
    spec = protocol.__spec__
    fresh: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fresh)
    return fresh._retrieve_buffer


def batch(*requests: dict[str, bytes]) -> bytes:
    """A command to predict, as the frontend writes it."""
    end = struct.pack("!i", -1)
    written = b"I"
    for number, fields in enumerate(requests):
        written += sized(b"id-%d" % number) + end
        for name, value in fields.items():
            written += sized(name.encode()) + sized(b"application/octet-stream") + sized(value)
        written += end
    return written + end


def sized(value: bytes) -> bytes:
    return struct.pack("!i", len(value)) + value


def commands(written: bytes, piece: int, count: int) -> list[Any]:
    """So many commands, read from what arrives in such pieces; the frontend then goes."""
    ours, theirs = socket.socketpair()

    def send() -> None:
        with theirs:
            for start in range(0, len(written), piece):
                theirs.sendall(written[start : start + piece])

    sender = threading.Thread(target=send)
    sender.start()
    with ours:
        try:
            read = [protocol.retrieve_msg(ours) for _ in range(count)]
            with pytest.raises(SystemExit) as ended:
                protocol.retrieve_msg(ours)
        finally:
            sender.join()
    assert ended.value.code == 0
    return read


LARGE = {"user_id": bytes(range(256)) * 600, "item_id": b""}


@pytest.mark.parametrize("piece", [1, 7, 70_000, 10_000_000])
def test_batches_are_read_as_torchserve_reads_them(
    read_ahead: Read, monkeypatch: pytest.MonkeyPatch, piece: int
) -> None:
    small = batch({"user_id": raw(7), "item_id": raw(10)}, {"data": b"[1]"})
    written = small + small if piece == 1 else small + batch(LARGE, LARGE) + small
    count = 2 if piece == 1 else 3
    came = commands(written, piece, count)
    assert protocol._retrieve_buffer is read_ahead
    monkeypatch.setattr(protocol, "_retrieve_buffer", torchserves())
    assert came == commands(written, piece, count)
    assert len(came[0][1]) == 2


def test_what_another_connection_left_is_not_read(read_ahead: Read) -> None:
    for text in (b"first, and more", b"second"):
        ours, theirs = socket.socketpair()
        with ours, theirs:
            theirs.sendall(text)
            assert read_ahead(ours, 5) == text[:5]


@pytest.mark.usefixtures("read_ahead")
def test_one_read_serves_a_whole_batch() -> None:
    reads: list[int] = []

    class Counted(socket.socket):
        def recv(self, size: int, flags: int = 0, /) -> bytes:
            reads.append(size)
            return super().recv(size, flags)

    ours, theirs = socket.socketpair()
    with theirs, Counted(fileno=ours.detach()) as counted:
        theirs.sendall(batch(*[{"data": b"[1]"}] * 16))
        assert len(protocol.retrieve_msg(counted)[1]) == 16
    assert len(reads) == 1
