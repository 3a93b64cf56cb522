"""The core: resolve the version, check the request against its signature, batch, run, record, answer.

Transports only translate: they hand over an ``InferCall`` whose ``decode`` turns their wire format into arrays for a given
signature, and turn the ``Answer`` into their wire format again.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import structlog
from numpy.typing import NDArray

from driftwheel.contracts import Arm, Signature, Task
from driftwheel.errors import (
    DeadlineExceededError,
    InvalidRequestError,
    ModelFaultError,
    NotFiniteError,
    NotFoundError,
    RequestError,
    UnavailableError,
)
from driftwheel.preprocessing import Tensors, encode
from driftwheel.settings import ServingSettings
from serving.codec import NUMPY_TYPES, first_key, key_of
from serving.codes import code_of
from serving.engine import LoadedVersion
from serving.prediction_log import Feedback, PredictionLog
from serving.recommend import Recommendation
from serving.recording import Recorder, Running
from serving.repository import ModelRepository, ServedModel

_log = structlog.get_logger()

_LONGEST_ID = 128

Decode = Callable[[Signature], tuple[Tensors, int]]
"""From the wire to arrays ``[rows]`` and the number of rows; raises InvalidRequestError or TooLargeError."""


@dataclass(frozen=True, slots=True)
class InferCall:
    """One request to score rows."""

    model: str
    decode: Decode
    protocol: str
    version: int | None = None
    routing_key: bytes | None = None
    deadline: float | None = None
    """When the caller stops waiting, by ``time.monotonic``."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model gave, and what answered."""

    version: LoadedVersion
    arm: Arm
    prediction_id: str
    outputs: dict[str, NDArray[Any]]
    rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RecommendCall:
    """One request for the best ``k`` items for a user."""

    user: int | str
    k: int
    protocol: str
    exclude: Sequence[int | str] = ()
    model: str | None = None
    version: int | None = None


@dataclass(frozen=True, slots=True)
class RecommendAnswer:
    """Top-K for one user, and what answered."""

    version: LoadedVersion
    arm: Arm
    prediction_id: str
    recommendation: Recommendation


class InferenceService:
    """Answers requests. Lives on one event loop."""

    def __init__(
        self, repository: ModelRepository, log: PredictionLog, recorder: Recorder, settings: ServingSettings
    ) -> None:
        self.repository = repository
        self.settings = settings
        self._log = log
        self._recorder = recorder
        self.draining = False

    @property
    def ready(self) -> bool:
        """Whether a load balancer should send traffic here."""
        return self.repository.ready and not self.draining

    async def infer(self, call: InferCall) -> Answer:
        """Score rows.

        Raises:
            RequestError: One of its kinds; the message is for the caller.
        """
        started = time.perf_counter()
        try:
            inputs, rows, loaded, arm = self._resolve(call)
        except RequestError as error:
            self._refused(error, call.model, call.protocol)
            raise
        running = Running(loaded, arm, call.protocol, "infer", started)
        try:
            feed = encode(loaded.bundle.manifest.signature, loaded.vocabularies, inputs)
            outputs = await loaded.batcher.run(feed, rows, call.deadline)
            _refuse_non_finite(outputs, loaded)
        except Exception as error:
            fault = _fault(error, loaded)
            self._recorder.failed(running, fault, inputs, rows)
            raise fault from error
        return Answer(loaded, arm, self._recorder.answered(running, inputs, outputs, rows), outputs, rows)

    def _resolve(self, call: InferCall) -> tuple[Tensors, int, LoadedVersion, Arm]:
        """Decode, and choose the explicit version or the split's."""
        served = self.repository.model(call.model)
        if call.deadline is not None and time.monotonic() >= call.deadline:
            raise DeadlineExceededError("the deadline passed before the model ran")
        if call.version is not None:
            loaded = served.pinned(call.version)
            return *call.decode(loaded.bundle.manifest.signature), loaded, Arm.PINNED
        signature = served.stable.bundle.manifest.signature
        inputs, rows = call.decode(signature)
        if served.candidate is None:
            return inputs, rows, served.stable, Arm.STABLE
        loaded, arm = served.route(self._routing_key(call, signature, inputs))
        if loaded is not served.stable and loaded.bundle.manifest.signature != signature:
            inputs, rows = call.decode(loaded.bundle.manifest.signature)
        return inputs, rows, loaded, arm

    def _routing_key(self, call: InferCall, signature: Signature, inputs: Tensors) -> bytes:
        if call.routing_key is not None:
            return call.routing_key
        if signature.key_input is not None:
            return first_key(inputs, signature.key_input)
        return self._recorder.token().encode()

    async def recommend(self, call: RecommendCall) -> RecommendAnswer:
        """The best items for a user.

        Raises:
            RequestError: One of its kinds; the message is for the caller.
        """
        started = time.perf_counter()
        try:
            loaded, arm = self._resolve_recommend(call)
        except RequestError as error:
            self._refused(error, call.model or "unknown", call.protocol)
            raise
        assert loaded.recommender is not None  # noqa: S101 (checked above; for the type checker)
        running = Running(loaded, arm, call.protocol, "recommend", started)
        try:
            recommendation = loaded.recommender.recommend(call.user, call.k, call.exclude)
            _refuse_non_finite({"score": recommendation.scores}, loaded)
        except Exception as error:
            fault = _fault(error, loaded)
            self._recorder.failed(running, fault, {}, 1)
            raise fault from error
        inputs, outputs = _as_rows(loaded, call.user, recommendation)
        # An empty list is a row too, without item and score: the canary judge must see it.
        prediction_id = self._recorder.answered(running, inputs, outputs, max(1, len(recommendation.items)))
        return RecommendAnswer(loaded, arm, prediction_id, recommendation)

    def _resolve_recommend(self, call: RecommendCall) -> tuple[LoadedVersion, Arm]:
        if not 1 <= call.k <= self.settings.max_top_k:
            raise InvalidRequestError(f"k must be between 1 and {self.settings.max_top_k}, got {call.k}")
        served = self.model_for("rating", call.model)
        if call.version is None:
            loaded, arm = served.route(key_of(call.user))
        else:
            loaded, arm = served.pinned(call.version), Arm.PINNED
        if loaded.recommender is None:
            raise NotFoundError(f"{loaded.label} cannot recommend: its bundle has no items")
        loaded.recommender.check_types(call.user, call.exclude)
        return loaded, arm

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


def _fault(error: Exception, loaded: LoadedVersion) -> RequestError:
    """A version's failure as the caller and the canary judge see it: a crash of any kind counts against the version."""
    if isinstance(error, RequestError):
        return error
    _log.exception("model.crashed", model=loaded.name, version=loaded.version, exc_info=error)
    return ModelFaultError(f"{loaded.label} failed on this request; the server's log says why")


def _refuse_non_finite(outputs: Tensors, loaded: LoadedVersion) -> None:
    for name, values in outputs.items():
        if not np.isfinite(values).all():
            raise NotFiniteError(f"{loaded.label} answered {name!r} with something that is not a number")


def _as_rows(loaded: LoadedVersion, user: int | str, recommendation: Recommendation) -> tuple[Tensors, Tensors]:
    """A recommendation as rows of the scoring signature: one for each item, in rank order."""
    signature = loaded.bundle.manifest.signature
    inputs: dict[str, NDArray[Any]] = {}
    if not recommendation.items:
        return {}, {}
    for spec in signature.inputs:
        values = [user] * len(recommendation.items) if spec.name == signature.key_input else recommendation.items
        inputs[spec.name] = np.array(values, dtype=NUMPY_TYPES[spec.datatype])
    return inputs, {signature.outputs[0].name: recommendation.scores}
