"""The link and its breaker, before a TorchServe that dies, hangs, moves and changes its token."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import msgspec
import numpy as np
import pytest

from driftwheel.errors import UnavailableError
from serving.backends import torchserve_link
from serving.backends.torchserve_link import Place, located_in
from serving.torchserve import address
from tests.serving.backends.fake_torchserve import (
    ANSWERS,
    CALL_S,
    FEED,
    NOBODY,
    SOON_S,
    FakeTorchServe,
    Refusal,
    proved,
    scored,
    scores,
)
from tests.serving.torchserve.traffic import wait_until


class TestTheBreaker:
    """When it opens, and when it closes."""

    def test_death_is_seen_soon_and_ends_the_calls_in_flight(self, fake, linked, start_run) -> None:
        with fake.hanging():
            calls = [start_run() for _ in range(3)]
            wait_until(lambda: len(fake.asked) == 3, "three calls")
            fake.stop()
            for call in calls:
                with pytest.raises(UnavailableError, match="does not answer"):
                    call.result(SOON_S)
        assert wait_until(lambda: linked.down, "opening") < SOON_S
        assert linked.down.startswith(f"TorchServe at 127.0.0.1:{fake.port} does not answer: ")

    def test_while_it_is_open_no_call_is_tried(self, fake, linked) -> None:
        fake.stop()
        wait_until(lambda: linked.down, "opening")
        asked = len(fake.asked)
        with pytest.raises(UnavailableError, match="does not answer"):
            linked.run(FEED)
        assert len(fake.asked) == asked

    def test_it_closes_by_itself_when_torchserve_is_back(self, fake, linked) -> None:
        proved(linked)
        for _ in range(2):
            fake.stop()
            wait_until(lambda: linked.down, "opening")
            fake.start()
            wait_until(lambda: not linked.down, "closing")
            assert scores(linked) == pytest.approx(ANSWERS)

    def test_silence_opens_it_and_ends_the_calls_in_flight(self, fake, linked, start_run, monkeypatch) -> None:
        monkeypatch.setattr(torchserve_link, "_PING_TIMEOUT_S", 0.2)
        with fake.hanging():
            call = start_run()
            with pytest.raises(UnavailableError, match="does not answer: Deadline Exceeded"):
                call.result(SOON_S)
            assert linked.down
        wait_until(lambda: not linked.down, "closing")
        assert scores(linked) == pytest.approx(ANSWERS)

    def test_one_ping_without_an_answer_opens_nothing(self, fake, linked, monkeypatch) -> None:
        monkeypatch.setattr(torchserve_link, "_PING_TIMEOUT_S", 0.2)
        monkeypatch.setattr(torchserve_link, "_SILENT_PINGS", 1000)
        with fake.hanging():
            wait_until(lambda: linked._link._silent > 1, "silence")
            assert linked.down is None
        wait_until(lambda: linked._link._silent == 0, "an answer")

    def test_a_version_that_is_not_registered_opens_it_until_it_is(self, fake, linked) -> None:
        proved(linked)
        gone = f"Model version: 1 does not exist for model: mf\n{NOBODY}"

        def nobody(request) -> bytes:
            raise Refusal(grpc.StatusCode.NOT_FOUND, gone)

        fake.answer = nobody
        with pytest.raises(UnavailableError, match="has no mf version 1: Model version: 1 does not exist"):
            linked.run(FEED)
        assert "has no mf version 1" in linked.down
        wait_until(lambda: "golden requests" in linked.down, "another look")
        fake.answer = scored
        wait_until(lambda: not linked.down, "closing")
        assert scores(linked) == pytest.approx(ANSWERS)

    @pytest.mark.parametrize(
        ("wrong", "says"),
        [
            (lambda request: (np.frombuffer(scored(request), "<f4") + np.float32(0.25)).tobytes(), "another archive"),
            (lambda request: scored(request)[:-1], "2 rows with 7 bytes"),
            (lambda request: b'{"code":500,"type":"x","message":"broken"}', "broken"),
        ],
    )
    def test_what_comes_back_must_answer_as_it_did(self, fake, linked, wrong, says: str) -> None:
        proved(linked)
        fake.stop()
        wait_until(lambda: linked.down, "opening")
        fake.answer = wrong
        fake.start()
        wait_until(lambda: says in linked.down, "a look at the answers")
        with pytest.raises(UnavailableError, match=says):
            linked.run(FEED)
        fake.answer = scored
        wait_until(lambda: not linked.down, "closing")


class TestWhereItIs:
    """Its address and its token change."""

    def test_a_token_that_was_changed_costs_no_call(self, fake, linked) -> None:
        for token in ("second", None, "third"):
            fake.token = token
            assert scores(linked) == pytest.approx(ANSWERS)
            assert linked.down is None

    def test_a_token_that_is_refused(self, fake, open_backend) -> None:
        linked = open_backend(lambda: Place(fake.place.target, "wrong"))
        assert linked.down == (f"TorchServe at 127.0.0.1:{fake.port} refuses our token: Token Authorization failed")

    def test_it_moves(self, fake, open_backend) -> None:
        places = [fake.place]
        linked = proved(open_backend(lambda: places[-1]))
        elsewhere = FakeTorchServe().start()
        try:
            places.append(elsewhere.place)
            fake.stop()
            wait_until(lambda: not linked.down and elsewhere.asked, "a look elsewhere")
            asked = len(fake.asked)
            assert scores(linked) == pytest.approx(ANSWERS)
            assert len(fake.asked) == asked
            assert linked._link.target == elsewhere.place.target
        finally:
            elsewhere.stop()

    def test_another_one_takes_over_and_no_call_fails(self, fake, open_backend) -> None:
        """As ``driftwheel torchserve up`` replaces one: the new one is ready, the old one refuses its old key, then it stops."""
        places = [fake.place]
        linked = proved(open_backend(lambda: places[-1]))
        elsewhere, release = FakeTorchServe().start(), threading.Event()

        def slowly(request) -> bytes:
            release.wait(CALL_S)
            return scored(request)

        try:
            with ThreadPoolExecutor(1) as pool:
                fake.answer = slowly
                in_flight = pool.submit(scores, linked)
                wait_until(lambda: len(fake.asked) == 2, "a call")
                places.append(elsewhere.place)
                fake.token = "another"
                assert scores(linked) == pytest.approx(ANSWERS)
                assert len(elsewhere.asked) == 2  # the golden requests, and ours
                wait_until(lambda: linked._link._close_left() is None and linked._link._left, "staying for the call")
                release.set()
                assert in_flight.result(SOON_S) == pytest.approx(ANSWERS)
            wait_until(lambda: not linked._link._left, "leaving")
            fake.stop()
            assert scores(linked) == pytest.approx(ANSWERS)
            assert linked.down is None
        finally:
            elsewhere.stop()

    def test_another_one_that_answers_otherwise_is_not_called(self, fake, open_backend) -> None:
        places = [fake.place]
        linked = proved(open_backend(lambda: places[-1]))
        elsewhere = FakeTorchServe().start()
        elsewhere.answer = lambda request: np.zeros(2, "<f4").tobytes()
        try:
            places.append(elsewhere.place)
            wait_until(lambda: elsewhere.asked, "a look elsewhere")
            assert scores(linked) == pytest.approx(ANSWERS)
            fake.stop()
            wait_until(lambda: linked.down and "another archive" in linked.down, "a look elsewhere")
        finally:
            elsewhere.stop()

    def test_an_address_that_is_gone_ends_nothing_while_it_answers(self, fake, open_backend) -> None:
        places: list[Place | None] = [fake.place]
        linked = proved(open_backend(lambda: places[-1]))
        places.append(None)
        linked._link.look()
        assert (scores(linked), linked.down) == (pytest.approx(ANSWERS), None)
        fake.stop()
        wait_until(lambda: linked.down and "no TorchServe has been started" in linked.down, "opening")

    def test_where_none_was_started(self, fake, open_backend) -> None:
        places: list[Place | None] = [None]
        linked = open_backend(lambda: places[0])
        with pytest.raises(UnavailableError, match="no TorchServe has been started here"):
            linked.run(FEED)
        places[0] = fake.place
        wait_until(lambda: not linked.down, "closing")
        assert scores(linked) == pytest.approx(ANSWERS)

    def test_a_damaged_address_is_told(self, tmp_path: Path, open_backend) -> None:
        (tmp_path / address.ADDRESS).write_text("{")
        assert "address.json is damaged" in open_backend(located_in(tmp_path)).down

    def test_it_is_read_from_its_folder(self, tmp_path: Path) -> None:
        assert located_in(tmp_path)() is None
        place = address.TorchServeAddress(
            pid=1, started_ticks=0, grpc="host:1", http="", management="", metrics="", key_file=None, models={}
        )
        address.write(tmp_path, place)
        assert located_in(tmp_path)() == Place("host:1", None)
        keys = tmp_path / address.KEY_FILE
        address.write(tmp_path, msgspec.structs.replace(place, key_file=str(keys)))
        with pytest.raises(OSError, match="key_file.json"):
            located_in(tmp_path)()
        keys.write_text('{"inference": {"key": "secret", "expiration time": "2026-01-01T00:00:00Z"}}')
        with pytest.raises(ValueError, match="is not a key file of TorchServe") as caught:
            located_in(tmp_path)()
        assert "secret" not in str(caught.value)
        keys.write_text('{"inference": {"key": "a"}, "management": {"key": "b"}, "API": {"key": "c"}}')
        assert located_in(tmp_path)() == Place("host:1", "a")


def test_places_do_not_show_their_token() -> None:
    assert "secret" not in repr(Place("host:1", "secret"))
