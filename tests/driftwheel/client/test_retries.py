"""What is tried again, when, and what never is."""

import contextlib
from typing import Any

import grpc
import pytest

from driftwheel._client.retry import Attempts, RetryBudget, Safety, may_retry
from driftwheel.client import (
    Client,
    ClientError,
    DeadlineExceededError,
    NotFoundError,
    OverloadedError,
    RetryPolicy,
    UnavailableError,
)
from serving._proto import open_inference_pb2 as pb
from tests.driftwheel.client.asking import ACCEPTED, LABELS, METADATA, PAIR, Ask
from tests.driftwheel.client.scripted import grpc_server, http_server

BUSY = (grpc.StatusCode.RESOURCE_EXHAUSTED, "the queue is full", {"grpc-retry-pushback-ms": "300"})
DOWN = (grpc.StatusCode.UNAVAILABLE, "draining", {})


class TestRetries:
    def test_what_is_down_is_asked_again_with_growing_pauses(self, ask: Ask) -> None:
        pauses: list[float] = []
        with grpc_server(DOWN, DOWN, DOWN, METADATA) as script:
            ask(script.target, lambda client: client.metadata("mf"), pauses=pauses)
        assert pauses == [0.05, 0.1, 0.2]

    def test_what_the_server_asks_to_wait_is_waited(self, ask: Ask) -> None:
        pauses: list[float] = []
        with grpc_server(BUSY, METADATA) as script:
            ask(script.target, lambda client: client.metadata("mf"), pauses=pauses)
        assert pauses == [pytest.approx(0.35)]
        with http_server((429, b"{}", {"retry-after": "2"}), ACCEPTED) as script:
            ask(script.target, lambda client: client.feedback(LABELS), pauses=pauses)
        assert pauses[1:] == [pytest.approx(2.05)]

    @pytest.mark.parametrize("pushback", ["-1", "soon"])
    def test_a_server_that_asks_not_to_come_back_is_left_alone(self, ask: Ask, pushback: str) -> None:
        busy = (grpc.StatusCode.RESOURCE_EXHAUSTED, "full", {"grpc-retry-pushback-ms": pushback})
        with grpc_server(busy) as script, pytest.raises(OverloadedError):
            ask(script.target, lambda client: client.metadata("mf"))

    @pytest.mark.parametrize("code", ["INVALID_ARGUMENT", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED", "INTERNAL"])
    def test_what_time_does_not_cure_is_not_asked_again(self, ask: Ask, code: str) -> None:
        with grpc_server((grpc.StatusCode[code], "", {})) as script, pytest.raises(ClientError):
            ask(script.target, lambda client: client.metadata("mf"))
        assert len(script.seen) == 1

    def test_probes_are_asked_once(self, ask: Ask) -> None:
        with grpc_server(DOWN) as script, pytest.raises(UnavailableError):
            ask(script.target, lambda client: client.ready())

    def test_a_wait_past_the_deadline_is_not_begun(self, ask: Ask) -> None:
        pauses: list[float] = []
        now = iter((0.0, 0.0))  # when it begins and when it is sent; it is refused shortly before its time is over
        with grpc_server(BUSY) as script, pytest.raises(OverloadedError) as raised:
            ask(
                script.target,
                lambda client: client.metadata("mf", timeout_s=60.0),
                pauses=pauses,
                clock=lambda: next(now, 59.8),
            )
        assert raised.value.retry_after_s == 0.3
        assert pauses == []

    def test_one_deadline_holds_over_all_attempts(self, ask: Ask) -> None:
        now = iter(range(100))
        with grpc_server(DOWN, METADATA) as script:
            ask(script.target, lambda client: client.metadata("mf"), timeout_s=50.0, clock=lambda: float(next(now)))
        first, second = (seen.timeout_s for seen in script.seen)
        assert first is not None
        assert second is not None
        assert 40 < second < first < 50

    def test_a_call_under_way_is_tried_again_too(self) -> None:
        answer = pb.ModelInferResponse(model_version="3").SerializeToString()
        pauses: list[float] = []
        with grpc_server(DOWN, answer) as script, Client(script.target, sleep=pauses.append) as client:
            assert client.start_infer("mf", PAIR).result().version == 3
        assert len(pauses) == 1

    def test_a_server_that_comes_back_is_found(self) -> None:
        with contextlib.ExitStack() as stack:

            def restart(seconds: float) -> None:
                stack.enter_context(grpc_server(METADATA, port=int(script.target.split(":")[1])))
                grpc.channel_ready_future(client._channel).result(timeout=20)

            with grpc_server(METADATA) as script:
                client = stack.enter_context(Client(script.target, sleep=restart, timeout_s=30))
                client.metadata("mf")
            assert client.metadata("mf").name == "mf"

    def test_labels_that_may_have_arrived_are_not_sent_again(self, ask: Ask) -> None:
        with http_server(None) as script, pytest.raises(UnavailableError) as raised:
            ask(script.target, lambda client: client.feedback(LABELS))
        assert len(script.seen) == 1
        assert not raised.value.unprocessed

    def test_labels_that_were_refused_are_sent_again(self, ask: Ask) -> None:
        with http_server((503, b'{"error": "draining"}', {}), ACCEPTED) as script:
            assert ask(script.target, lambda client: client.feedback(LABELS)) == 1

    def test_questions_over_http_are_asked_again_though_they_may_have_arrived(self, ask: Ask) -> None:
        with http_server(None, (404, b'{"error": "no model"}', {})) as script, pytest.raises(NotFoundError):
            ask(script.target, lambda client: client.churn([{}]))

    def test_a_kept_connection_that_the_server_closed_is_not_used(self) -> None:
        closing = (200, ACCEPTED, {"connection": "close"})
        with http_server(closing, ACCEPTED, ACCEPTED) as script, Client(script.target) as client:
            assert [client.feedback(LABELS) for _ in range(3)] == [1, 1, 1]

    def test_retries_stay_within_their_budget(self, ask: Ask) -> None:
        policy = RetryPolicy(reserve=1, budget=0.0)
        with grpc_server(DOWN, DOWN) as script, pytest.raises(UnavailableError):
            ask(script.target, lambda client: client.metadata("mf"), retry=policy)
        assert len(script.seen) == 2


class TestDecisions:
    def test_a_fifth_of_the_calls_may_be_retries(self) -> None:
        budget = RetryBudget(RetryPolicy(reserve=2))
        granted = 0
        for _ in range(100):
            budget.called()
            granted += budget.take()
        assert 20 <= granted <= 23

    def test_pauses_are_drawn_between_nothing_and_the_bound(self) -> None:
        def pauses(random: float) -> list[float]:
            policy = RetryPolicy(attempts=4, initial_backoff_s=1.0, max_backoff_s=3.0)
            attempts = Attempts(
                policy,
                RetryBudget(policy),
                safety=Safety.REPEATABLE,
                timeout_s=60.0,
                clock=lambda: 0.0,
                random=lambda: random,
            )
            return [attempts.pause_after(UnavailableError("UNAVAILABLE", "")) for _ in range(3)]

        assert pauses(0.0) == [0.0, 0.0, 0.0]
        assert pauses(0.5) == [0.5, 1.0, 1.5]
        assert pauses(1.0) == [1.0, 2.0, 3.0]

    @pytest.mark.parametrize("safety", list(Safety))
    def test_what_may_be_sent_again(self, safety: Safety) -> None:
        refused = UnavailableError("UNAVAILABLE", "", unprocessed=True)
        cut = UnavailableError("UNAVAILABLE", "")
        late = DeadlineExceededError("DEADLINE_EXCEEDED", "", unprocessed=True)
        assert may_retry(refused, safety) == (safety is not Safety.SINGLE)
        assert may_retry(cut, safety) == (safety is Safety.REPEATABLE)
        assert not may_retry(late, safety)

    @pytest.mark.parametrize(
        "wrong",
        [{"attempts": 0}, {"budget": 2.0}, {"reserve": -1}, {"initial_backoff_s": 3.0}, {"max_backoff_s": -1.0}],
    )
    def test_a_policy_that_makes_no_sense_is_refused(self, wrong: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match=next(iter(wrong)).split("_")[0]):
            RetryPolicy(**wrong)
