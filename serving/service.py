"""The core: resolve the version, check the request against its signature, batch, run, record, answer.

Transports only translate: they hand over an ``InferCall`` whose ``decode`` turns their wire format into arrays for a given
signature, and turn the ``Answer`` into their wire format again.
"""

import asyncio
import time
from collections.abc import Callable, Sequence

import numpy as np
import structlog
from msgspec import Struct
from numpy.typing import NDArray

from driftwheel.contracts import Arm, Signature, Task
from driftwheel.errors import (
    DeadlineExceededError,
    InvalidRequestError,
    NotFoundError,
    RequestError,
    UnavailableError,
)
from driftwheel.serving_settings import ServingSettings
from serving.codec import Columns, first_key
from serving.codes import code_of
from serving.engine import LoadedVersion
from serving.faults import fault_of
from serving.prediction_log import Feedback, PredictionLog
from serving.recommending import RecommendAnswer, RecommendCall, answered, parties_of
from serving.recording import Recorder, Running
from serving.repository import ModelRepository, ServedModel
from serving.scoring import Outputs
from serving.shadow import Shadow
from serving.versions import Pin

_log = structlog.get_logger()

_LONGEST_ID = 128

Decode = Callable[[LoadedVersion], tuple[Columns, int]]
"""From the wire to columns ``[rows]`` and the number of rows, as a version's signature and limits want them; raises
InvalidRequestError or TooLargeError."""

OnDisconnect = Callable[[Callable[[], object]], None]
"""Asks a transport to call back when the caller goes away."""


class InferCall(Struct, eq=False):
    """One request to score rows."""

    model: str
    decode: Decode
    protocol: str
    version: Pin | None = None
    routing_key: bytes | None = None
    deadline: float | None = None
    """When the caller stops waiting, by ``time.monotonic``."""
    on_disconnect: OnDisconnect | None = None
    """Asked only where the request has to wait for a run under way: what nobody waits for is not run."""


class Answer(Struct, eq=False):
    """What the model gave, and what answered."""

    version: LoadedVersion
    arm: Arm
    prediction_id: str
    outputs: Outputs
    rows: int
    queued_s: float
    """How long it waited for its run, and how long that took."""
    run_s: float

    def values(self, name: str) -> NDArray[np.float32]:
        """An output ``[rows]``."""
        return np.frombuffer(self.outputs[name], "<f4")


class InferenceService:
    """Answers requests. Lives on one event loop."""

    def __init__(
        self, repository: ModelRepository, log: PredictionLog, recorder: Recorder, settings: ServingSettings
    ) -> None:
        self.repository = repository
        self.settings = settings
        self._log = log
        self._recorder = recorder
        self._shadow = Shadow(recorder, repository.metrics)
        self.draining = False

    async def close(self) -> None:
        """Let go of copies that wait."""
        await self._shadow.close()

    @property
    def ready(self) -> bool:
        """Whether a load balancer should send traffic here."""
        return self.repository.ready and not self.draining

    async def infer(self, call: InferCall) -> Answer:
        """Score rows.

        Raises:
            RequestError: One of its kinds; the message is for the caller.
        """
        started = time.monotonic()
        try:
            inputs, rows, loaded, arm = self._resolve(call, started)
        except RequestError as error:
            self._refused(error, call.model, call.protocol)
            raise
        running = Running(loaded, arm, call.protocol, "infer", started)
        try:
            answer = loaded.batcher.submit((inputs, rows), rows, call.deadline)
            if call.on_disconnect is not None and loaded.batcher.busy:
                call.on_disconnect(answer.cancel)
            ran = await answer
        except asyncio.CancelledError:
            self._recorder.cancelled(running)
            raise
        except Exception as error:
            fault = fault_of(error, loaded)
            self._recorder.failed(running, fault, inputs, rows)
            raise fault from error
        prediction_id = self._recorder.answered(running, inputs, ran.result, rows, ran.queued_s)
        if arm is Arm.CONTROL and (served := self.repository.served(call.model)) and served.rollout.shadow:
            # In the loop's next turn, when the caller has been answered.
            copy, loop = self._shadow.copy, asyncio.get_running_loop()
            loop.call_soon(copy, served, prediction_id, call.protocol, inputs, rows, ran.result)
        return Answer(loaded, arm, prediction_id, ran.result, rows, ran.queued_s, ran.run_s)

    def _resolve(self, call: InferCall, now: float) -> tuple[Columns, int, LoadedVersion, Arm]:
        """Decode, and choose the explicit version or the split's."""
        served = self.repository.model(call.model)
        if call.deadline is not None and now >= call.deadline:
            raise DeadlineExceededError("the deadline passed before the model ran")
        if call.version is not None:
            loaded = served.pinned(call.version)
            return *call.decode(loaded), loaded, Arm.PINNED
        stable = served.stable
        inputs, rows = call.decode(stable)
        if not served.on_trial:
            return inputs, rows, stable, Arm.STABLE
        loaded, arm = served.route(self._routing_key(call, stable.signature, inputs))
        if loaded.signature is not stable.signature:
            inputs, rows = call.decode(loaded)
        return inputs, rows, loaded, arm

    def _routing_key(self, call: InferCall, signature: Signature, inputs: Columns) -> bytes:
        if call.routing_key is not None:
            return call.routing_key
        if signature.key_input is not None:
            return first_key(inputs[signature.key_input])
        return self._recorder.token().encode()

    async def recommend(self, call: RecommendCall) -> list[RecommendAnswer]:
        """The best items for each user, in the order of the call.

        Raises:
            RequestError: One of its kinds; the message is for the caller.
        """
        started = time.monotonic()
        try:
            served = self.model_for("rating", call.model)
            parties = parties_of(call, served, self.settings, started)
        except RequestError as error:
            self._refused(error, call.model or "unknown", call.protocol)
            raise
        answers = await answered(call, parties, self._recorder, started)
        if served.rollout.shadow:
            copy, loop = self._shadow.copy_recommendations, asyncio.get_running_loop()
            loop.call_soon(copy, served, call.questions, answers, call.protocol)
        return answers

    def model_for(self, task: Task, name: str | None) -> ServedModel:
        """The model of a task: the one named, or the only one there is.

        Raises:
            NotFoundError: There is none, or several and none was named.
            InvalidRequestError: The one named does something else.
        """
        if name is not None:
            served = self.repository.model(name)
            if (actual := served.stable.bundle.manifest.task) != task:
                raise InvalidRequestError(f"model {name!r} does {actual}, not {task}")
            return served
        fitting = [m for m in self.repository.models() if m.stable.bundle.manifest.task == task]
        if not fitting and not self.repository.ready:
            raise UnavailableError(f"no model for {task} can answer yet")
        if len(fitting) != 1:
            names = ", ".join(m.rollout.model for m in fitting) or "none"
            raise NotFoundError(f"say which model: {len(fitting)} models do {task} ({names})")
        return fitting[0]

    async def feedback(self, items: Sequence[tuple[str, int, float]]) -> int:
        """Accept labels (prediction id, row, label); they are on disk when this returns.

        Raises:
            RequestError: An id is not ours, or a label is outside its range; then none is accepted.
        """
        checked = [self._checked_feedback(position, *item) for position, item in enumerate(items)]
        if checked:
            await self._log.accept(checked)
        return len(checked)

    def _checked_feedback(self, position: int, prediction_id: str, row: int, label: float) -> Feedback:
        name, _, rest = prediction_id.partition(".")
        version, _, token = rest.partition(".")
        if not (name and version.isdecimal() and token and len(prediction_id) <= _LONGEST_ID):
            raise InvalidRequestError(
                f"feedback[{position}].prediction_id must be the id that an answer bore, got {prediction_id[:80]!r}"
            )
        if not 0 <= row < self.settings.max_rows_per_request:
            raise InvalidRequestError(f"feedback[{position}].row must be a row of the answer, got {row}")
        signature = self.repository.model(name).stable.bundle.manifest.signature
        if not signature.label_low <= label <= signature.label_high:
            raise InvalidRequestError(
                f"feedback[{position}].label ({signature.label}) must be between {signature.label_low:g} and "
                f"{signature.label_high:g}, got {label:g}"
            )
        return Feedback(prediction_id, row, label, name)

    def _refused(self, error: RequestError, model: str, protocol: str) -> None:
        known = any(served.rollout.model == model for served in self.repository.models())
        self._recorder.refused(code_of(error), model=model if known else "unknown", protocol=protocol)
