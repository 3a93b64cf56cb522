"""Recommend, as the core does it: each user to the version that answers them, all users of a version in one run."""

import asyncio
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from driftwheel.contracts import Arm
from driftwheel.errors import DeadlineExceededError, NotFoundError
from driftwheel.serving_settings import ServingSettings
from serving.batching import Ran
from serving.codec import Columns, key_of
from serving.engine import LoadedVersion
from serving.faults import fault_of
from serving.recommendation.questions import Id, Query, Question, check_sizes
from serving.recommendation.recommender import LoadedRecommender, Recommendation
from serving.recording import Recorder, Running
from serving.repository import ServedModel
from serving.versions import Pin


@dataclass(frozen=True, slots=True, kw_only=True)
class RecommendCall:
    """One request for the best items of one or more users."""

    questions: Sequence[Question]
    protocol: str
    one: bool = False
    """The caller used the form for one user: messages need not say for which."""
    model: str | None = None
    version: Pin | None = None
    routing_key: bytes | None = None
    """What the split hashes for all users of the call; None: each user's id."""
    deadline: float | None = None
    """When the caller stops waiting, by ``time.monotonic``."""
    on_disconnect: Callable[[Callable[[], object]], None] | None = None
    """As in ``InferCall``."""


@dataclass(frozen=True, slots=True)
class RecommendAnswer:
    """Top-K for one user, and what answered."""

    version: LoadedVersion
    arm: Arm
    prediction_id: str
    recommendation: Recommendation


@dataclass(slots=True)
class Party:
    """The users of a request that one version answers."""

    loaded: LoadedVersion
    recommender: LoadedRecommender
    positions: list[int] = field(default_factory=list[int])
    arms: list[Arm] = field(default_factory=list[Arm])
    queries: list[Query] = field(default_factory=list[Query])


def parties_of(call: RecommendCall, served: ServedModel, settings: ServingSettings, now: float) -> list[Party]:
    """Check a call, and send each user to the version that its id is routed to.

    Raises:
        RequestError: Something in the call cannot be used, or a version cannot recommend.
    """
    check_sizes(call.questions, settings, one=call.one)
    if call.deadline is not None and now >= call.deadline:
        raise DeadlineExceededError("the deadline passed before the model ran")
    parties: dict[int, Party] = {}
    pinned = None if call.version is None else served.pinned(call.version)
    for position, question in enumerate(call.questions):
        if pinned is not None:
            loaded, arm = pinned, Arm.PINNED
        elif not served.on_trial:
            loaded, arm = served.stable, Arm.STABLE
        else:
            loaded, arm = served.route(key_of(question.user) if call.routing_key is None else call.routing_key)
        if (party := parties.get(loaded.version)) is None:
            if loaded.recommender is None:
                raise NotFoundError(f"{loaded.label} cannot recommend: its bundle has no factors; export it again")
            party = parties[loaded.version] = Party(loaded, loaded.recommender)
        party.positions.append(position)
        party.arms.append(arm)
        party.queries.append(party.recommender.encoder.query(question, "" if call.one else f"users[{position}]."))
    return list(parties.values())


async def answered(
    call: RecommendCall, parties: Sequence[Party], recorder: Recorder, started: float
) -> list[RecommendAnswer]:
    """Run and record; an answer for each user, in the order of the call.

    Raises:
        RequestError: A version failed, or is overloaded; then the whole call fails.
    """
    waiting: list[asyncio.Future[Ran[list[Recommendation]]]] = []
    try:
        for party in parties:
            waiting.append(_submit(call, party))  # noqa: PERF401 (where one is refused, the ones before it are known)
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    except asyncio.CancelledError:
        _cancelled(call, parties, recorder, started)
        raise
    except Exception as error:
        raise _failed(call, parties[len(waiting)], recorder, started, error) from error
    finally:
        for one in waiting:
            one.cancel()
    answers: dict[int, RecommendAnswer] = {}
    faults = [(party, ran) for party, ran in zip(parties, outcomes, strict=True) if isinstance(ran, BaseException)]
    for party, error in faults:
        if not isinstance(error, Exception):
            _cancelled(call, parties, recorder, started)
            raise error
        raise _failed(call, party, recorder, started, error) from error
    for party, ran in zip(parties, outcomes, strict=True):
        assert isinstance(ran, Ran)  # noqa: S101 (the others were raised above; for the type checker)
        answers.update(_recorded(call, party, recorder, started, ran))
    return [answers[position] for position in range(len(call.questions))]


def _submit(call: RecommendCall, party: Party) -> "asyncio.Future[Ran[list[Recommendation]]]":
    batcher = party.recommender.batcher
    answer = batcher.submit(party.queries, sum(query.weight for query in party.queries), call.deadline)
    if call.on_disconnect is not None and batcher.busy:
        call.on_disconnect(answer.cancel)
    return answer


def _recorded(
    call: RecommendCall, party: Party, recorder: Recorder, started: float, ran: Ran[list[Recommendation]]
) -> dict[int, RecommendAnswer]:
    """Record each user as a request of its own, so that feedback can name it."""
    answers: dict[int, RecommendAnswer] = {}
    running = {arm: Running(party.loaded, arm, call.protocol, "recommend", started) for arm in set(party.arms)}
    for position, arm, recommendation in zip(party.positions, party.arms, ran.result, strict=True):
        inputs, outputs = as_rows(party.loaded, call.questions[position].user, recommendation)
        # An empty list is a row too, without item and score: the canary judge must see it.
        rows = max(1, len(recommendation.items))
        prediction_id = recorder.answered(running[arm], inputs, outputs, rows, ran.queued_s)
        answers[position] = RecommendAnswer(party.loaded, arm, prediction_id, recommendation)
    return answers


def _failed(call: RecommendCall, party: Party, recorder: Recorder, started: float, error: Exception) -> Exception:
    fault = fault_of(error, party.loaded)
    for arm in party.arms:
        recorder.failed(Running(party.loaded, arm, call.protocol, "recommend", started), fault, {}, 1)
    return fault


def _cancelled(call: RecommendCall, parties: Sequence[Party], recorder: Recorder, started: float) -> None:
    for party in parties:
        recorder.cancelled(Running(party.loaded, party.arms[0], call.protocol, "recommend", started))


def as_rows(loaded: LoadedVersion, user: Id, recommendation: Recommendation) -> tuple[Columns, Columns]:
    """A recommendation as rows of the scoring signature: one for each item, in rank order."""
    signature = loaded.signature
    if not recommendation.items:
        return {}, {}
    inputs: dict[str, Any] = {}
    for spec in signature.inputs:
        ids = [user] * len(recommendation.items) if spec.name == signature.key_input else recommendation.items
        # Numbers go as the bytes that the log wants: that costs less than an array.
        inputs[spec.name] = (
            struct.pack(f"<{len(ids)}q", *ids) if spec.datatype == "INT64" else np.array(ids, dtype=object)
        )
    return inputs, {signature.outputs[0].name: recommendation.scores.tobytes()}
