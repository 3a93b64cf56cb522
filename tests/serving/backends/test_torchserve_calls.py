"""Calls to TorchServe that fail, take too long, or outlive their version."""

import gc
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest

from driftwheel.errors import BundleError, ModelFaultError, OverloadedError, RequestError, UnavailableError
from driftwheel.settings import load_settings
from serving.backends import torchserve_link
from serving.backends.torchserve import TorchServeBackend
from serving.backends.torchserve_link import TorchServeLink
from serving.engine import load_version
from tests.bundles import RATING_SIGNATURE, make_rating_bundle
from tests.serving.backends.fake_torchserve import (
    ANSWERS,
    CALL_S,
    FEED,
    SOON_S,
    FakeTorchServe,
    Refusal,
    proved,
    scored,
    scores,
)
from tests.serving.torchserve.traffic import wait_until


def threads() -> int:
    return sum(one.name == "torchserve-link" for one in threading.enumerate())


class TestCalls:
    """Second tries, time, and what failed calls are told."""

    def failing(self, fake: FakeTorchServe, times: int, code: grpc.StatusCode, details: str) -> None:
        """The first calls fail."""
        left = [times]

        def answer(request) -> bytes:
            if left[0]:
                left[0] -= 1
                raise Refusal(code, details)
            return scored(request)

        fake.answer = answer

    def test_it_asks_for_its_own_version_in_every_call(self, fake, linked) -> None:
        for _ in range(3):
            scores(linked)
        assert {(one.model_name, one.model_version) for one in fake.asked} == {("mf", "1")}

    @pytest.mark.parametrize(
        ("code", "details"),
        [
            (grpc.StatusCode.INTERNAL, "Worker died.\norg.pytorch.serve.http.InternalServerException"),
            (grpc.StatusCode.UNAVAILABLE, "Socket closed"),
            (grpc.StatusCode.PERMISSION_DENIED, "Token Authorization failed"),
        ],
    )
    def test_what_may_be_asked_again_is_asked_once_more(self, fake, linked, code, details) -> None:
        self.failing(fake, 1, code, details)
        assert scores(linked) == pytest.approx(ANSWERS)
        assert len(fake.asked) == 2
        self.failing(fake, 2, code, details)
        with pytest.raises(RequestError):
            linked.run(FEED)
        assert len(fake.asked) == 4

    @pytest.mark.parametrize(
        ("code", "details", "error"),
        [
            (grpc.StatusCode.INTERNAL, "Invoke failed\norg.pytorch.serve.X", ModelFaultError),
            (grpc.StatusCode.RESOURCE_EXHAUSTED, "too much\norg.pytorch.serve.X", OverloadedError),
            (grpc.StatusCode.INVALID_ARGUMENT, "bad\norg.pytorch.serve.X", ModelFaultError),
            (grpc.StatusCode.DEADLINE_EXCEEDED, "late", UnavailableError),
        ],
    )
    def test_nothing_else_is(self, fake, linked, code, details, error: type[RequestError]) -> None:
        self.failing(fake, 1, code, details)
        with pytest.raises(error):
            linked.run(FEED)
        assert len(fake.asked) == 1

    def test_a_call_takes_no_longer_than_it_may(self, fake, open_backend) -> None:
        linked = open_backend(timeout_s=2.0)
        release = threading.Event()

        def never(request) -> bytes:
            release.wait(CALL_S)
            return b""

        fake.answer = never
        with pytest.raises(UnavailableError, match=r"gave no answer of mf version 1 within 2 s"):
            linked.run(FEED)
        assert (len(fake.asked), linked.down) == (1, None)
        release.set()

    def test_a_second_try_has_what_is_left_of_the_time(self, fake, open_backend) -> None:
        linked = open_backend(timeout_s=2.0)
        release = threading.Event()
        died = Refusal(grpc.StatusCode.INTERNAL, "Worker died.\norg.pytorch.serve.http.InternalServerException")

        def answer(request) -> bytes:
            if len(fake.asked) > 1:
                release.wait(CALL_S)
            raise died

        fake.answer = answer
        with pytest.raises(UnavailableError, match="gave no answer"):
            linked.run(FEED)
        assert len(fake.asked) == 2
        release.set()


class TestLeaving:
    """A version that has left leaves nothing behind."""

    def test_closing_ends_the_calls_in_flight_and_the_thread(self, fake, linked, start_run) -> None:
        before = threads()
        with fake.hanging():
            call = start_run()
            wait_until(lambda: fake.asked, "a call")
            linked.close()
            with pytest.raises(UnavailableError, match="unloaded"):
                call.result(SOON_S)
        wait_until(lambda: threads() == before - 1, "the thread's end")

    def test_a_backend_that_is_dropped_is_closed(self, fake) -> None:
        before = threads()
        linked = proved(
            TorchServeBackend(
                TorchServeLink(fake.locate), name="mf", version=1, signature=RATING_SIGNATURE, timeout_s=CALL_S
            )
        )
        link = linked._link
        assert threads() == before + 1
        del linked
        gc.collect()
        wait_until(lambda: threads() == before, "the thread's end")
        assert link.down == "the model has been unloaded"

    def test_a_version_that_is_refused_leaves_no_thread(self, tmp_path: Path, fake, monkeypatch) -> None:
        """It is tried again every few seconds."""
        fake.answer = lambda request: np.full(3, 1.25, "<f4").tobytes()
        monkeypatch.setattr(torchserve_link, "located_in", lambda folder: fake.locate)
        bundle = make_rating_bundle(tmp_path, 1)
        settings = load_settings(serving={"backend": "torchserve"}).serving
        before = threads()
        gc.disable()
        try:
            with pytest.raises(BundleError, match="differs from its golden answers"), ThreadPoolExecutor(1) as executor:
                load_version(bundle, settings, executor, on_run=lambda rows, seconds: None, torchserve=tmp_path)
            wait_until(lambda: threads() == before, "the thread's end")
        finally:
            gc.enable()

    def test_closing_does_not_wait_for_a_look_and_holds(self, fake, linked) -> None:
        link = linked._link
        with fake.hanging():
            looking = threading.Thread(target=link.look)
            looking.start()
            linked.close()
            looking.join(SOON_S)
            assert not looking.is_alive()
        assert link.down == "the model has been unloaded"
        with pytest.raises(UnavailableError, match="unloaded"):
            link.call(b"", 1.0)

    def test_a_call_that_meets_a_closed_channel_is_told_so(self, fake, linked) -> None:
        link = linked._link
        link._connection.channel.close()
        with pytest.raises(UnavailableError):
            linked.run(FEED)
