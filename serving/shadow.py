"""Shadow: the candidate answers copies of control's requests, and nobody waits for it.

A copy is made once the caller's answer is ready. Copies run on one thread of low priority, in batches of what has
gathered, and are recorded in a log of their own under the id of the request that they copy. There is room for few: when
they come faster than the candidate answers, or when stable itself has a queue, they are dropped and counted.
"""

import asyncio
import os
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import structlog

from driftwheel.contracts import Arm
from driftwheel.errors import OverloadedError, RequestError
from monitoring.metrics import ServingMetrics
from serving.batching import Batcher, RunCost
from serving.codec import Columns
from serving.engine import LoadedVersion
from serving.faults import fault_of
from serving.recommendation.questions import Question
from serving.recommendation.recommender import LoadedRecommender, Recommendation
from serving.recommending import RecommendAnswer, as_rows
from serving.recording import Recorder, Running
from serving.scoring import Outputs
from serving.served_model import ServedModel

_log = structlog.get_logger()

_MOST_WAITING = 512
"""Rows, or users, of one candidate that wait; one copy more is dropped."""

_STABLE_QUEUE = 0.125
"""The share of stable's queue that may be taken before copies are dropped."""

_NICENESS = 10
_ON_A_THREAD = RunCost(fixed_us=1.0, row_us=0.0)
"""Any cost: with an inline budget of 0 no run stays on the event loop."""


class Shadow:
    """Used from one event loop.

    Args:
        recorder: Takes the answers.
    """

    def __init__(self, recorder: Recorder, metrics: ServingMetrics) -> None:
        self._recorder = recorder
        self._metrics = metrics
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="shadow", initializer=_be_nice)
        self._scorers: WeakKeyDictionary[LoadedVersion, Batcher[Any, Any]] = WeakKeyDictionary()
        self._recommenders: WeakKeyDictionary[LoadedVersion, Batcher[Any, Any]] = WeakKeyDictionary()
        self._tasks: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Let go of what waits."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._thread.shutdown(cancel_futures=True)

    def copy(
        self, served: ServedModel, prediction_id: str, protocol: str, inputs: Columns, rows: int, outputs: Outputs
    ) -> None:
        """Have each version on trial score what stable has scored, or drop the copy.

        Args:
            prediction_id: Of the request that is copied.
            outputs: Stable's answer.
        """
        is_busy = served.stable.batcher.fullness > _STABLE_QUEUE
        for candidate in served.on_trial.values():
            if candidate.signature is not served.stable.signature:
                continue
            if is_busy:
                self._dropped(served)
            else:
                self._copy(served, candidate, prediction_id, protocol, inputs, rows, outputs)

    def _copy(
        self,
        served: ServedModel,
        candidate: LoadedVersion,
        prediction_id: str,
        protocol: str,
        inputs: Columns,
        rows: int,
        outputs: Outputs,
    ) -> None:
        batcher = _batcher_of(self._scorers, candidate, candidate.batcher, self._thread)
        running = Running(candidate, Arm.SHADOW, protocol, "infer", time.monotonic())
        try:
            answer = batcher.submit((inputs, rows), rows, None)
        except OverloadedError:
            self._dropped(served)
            return
        self._follow(self._score(running, answer, prediction_id, inputs, rows, outputs))

    async def _score(
        self, running: Running, answer: Any, prediction_id: str, inputs: Columns, rows: int, outputs: Outputs
    ) -> None:
        try:
            ran = await answer
        except Exception as error:  # noqa: BLE001 (whatever it is, it is the candidate's failure, and evidence)
            self._recorder.failed(running, fault_of(error, running.loaded), inputs, rows, twin=prediction_id)
            return
        self._recorder.answered(running, inputs, ran.result, rows, ran.queued_s, twin=prediction_id)
        first = running.loaded.output_names[0]
        mine, theirs = (np.frombuffer(side[first], "<f4") for side in (ran.result, outputs))
        labels = (running.loaded.name, str(running.loaded.version))
        self._metrics.shadow_delta.labels(*labels).observe_many(np.abs(mine - theirs))

    def copy_recommendations(
        self, served: ServedModel, questions: Sequence[Question], answers: Sequence[RecommendAnswer], protocol: str
    ) -> None:
        """Have each version on trial recommend to control's users, one by one, or drop the copies."""
        asked = [pair for pair in zip(questions, answers, strict=True) if pair[1].arm is Arm.CONTROL]
        stable = served.stable.recommender
        is_busy = stable is not None and stable.batcher.fullness > _STABLE_QUEUE
        for candidate in served.on_trial.values():
            if (recommender := candidate.recommender) is None:
                continue
            for question, answer in asked:
                if is_busy:
                    self._dropped(served)
                else:
                    self._copy_recommendation(served, candidate, recommender, question, answer, protocol)

    def _copy_recommendation(
        self,
        served: ServedModel,
        candidate: LoadedVersion,
        recommender: LoadedRecommender,
        question: Question,
        answer: RecommendAnswer,
        protocol: str,
    ) -> None:
        batcher = _batcher_of(self._recommenders, candidate, recommender.batcher, self._thread)
        running = Running(candidate, Arm.SHADOW, protocol, "recommend", time.monotonic())
        try:
            query = recommender.encoder.query(question, "")
            copied = batcher.submit([query], query.weight, None)
        except OverloadedError:
            self._dropped(served)
        except RequestError as error:
            self._recorder.failed(running, error, {}, 1, twin=answer.prediction_id)
        else:
            self._follow(self._recommend(running, copied, question, answer))

    async def _recommend(self, running: Running, copied: Any, question: Question, answer: RecommendAnswer) -> None:
        try:
            ran = await copied
        except Exception as error:  # noqa: BLE001 (as above)
            fault = fault_of(error, running.loaded)
            self._recorder.failed(running, fault, {}, 1, twin=answer.prediction_id)
            return
        mine: Recommendation = ran.result[0]
        inputs, outputs = as_rows(running.loaded, question.user, mine)
        rows = max(1, len(mine.items))
        self._recorder.answered(running, inputs, outputs, rows, ran.queued_s, twin=answer.prediction_id)
        theirs = answer.recommendation.items
        shared = len(set(mine.items) & set(theirs)) / max(len(mine.items), len(theirs), 1)
        self._metrics.shadow_overlap.labels(running.loaded.name, str(running.loaded.version)).observe_many([shared])

    def _dropped(self, served: ServedModel) -> None:
        self._metrics.shadow_dropped.labels(served.rollout.model).inc()

    def _follow(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _batcher_of(
    known: "WeakKeyDictionary[LoadedVersion, Batcher[Any, Any]]",
    candidate: LoadedVersion,
    traffic: Batcher[Any, Any],
    thread: ThreadPoolExecutor,
) -> Batcher[Any, Any]:
    """The queue for copies: it runs what the one for traffic runs, and shares nothing else with it."""
    if (batcher := known.get(candidate)) is None:
        batcher = known[candidate] = Batcher(
            traffic.run,
            cost=_ON_A_THREAD,
            inline_us=0.0,
            max_batch_rows=min(_MOST_WAITING, traffic.max_batch_rows),
            max_queued_rows=_MOST_WAITING,
            executor=thread,
            on_run=_uncounted,
        )
    return batcher


def _uncounted(rows: int, seconds: float) -> None:
    """Runs of copies are no traffic's."""
    del rows, seconds


def _be_nice() -> None:
    # On Linux a thread has a priority of its own; elsewhere copies compete with all else.
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
