"""What Triton's HTTP clients ask beyond the protocol: configuration, statistics, and the model repository."""

from typing import Any

import msgspec

from driftwheel.errors import InvalidRequestError, UnimplementedError
from serving.access import Role
from serving.model_config import ModelConfig, ModelStatistics, model_config, model_statistics
from serving.recording import Recorder
from serving.service import InferenceService
from serving.transports.http import Doc, Request, Response, Route, json_response
from serving.transports.json_bodies import check_media_type, decode_json
from serving.versions import parse_version

TAG = "Triton's extensions"


class IndexJson(msgspec.Struct):
    """Ask what is in the repository."""

    ready: bool = False
    """Only what can answer."""


class IndexEntryJson(msgspec.Struct):
    """A version, and whether it can answer."""

    name: str
    version: str
    state: str
    reason: str


class RepositoryJson(msgspec.Struct):
    """Load or unload a model. The parameter ``version`` names one version; without it, what the rollout names is meant."""

    parameters: dict[str, Any] = {}


class StatisticsJson(msgspec.Struct):
    """Statistics of every version asked for."""

    model_stats: list[ModelStatistics]


class DoneJson(msgspec.Struct):
    """It is in effect."""


class TritonRest:
    """The handlers."""

    def __init__(self, service: InferenceService, recorder: Recorder) -> None:
        self._service = service
        self._recorder = recorder

    def routes(self) -> list[Route]:
        """Every path of the extensions."""
        return [*self._about_models(), *self._repository(), *_not_offered()]

    def _about_models(self) -> list[Route]:
        config = Doc(summary="How a model is served", tag=TAG, answer=ModelConfig, statuses=(503,))
        stats = Doc(
            summary="What versions have done since they were loaded", tag=TAG, answer=StatisticsJson, statuses=(503,)
        )
        everything = Doc(summary="What all versions have done since they were loaded", tag=TAG, answer=StatisticsJson)
        one, versioned = "/v2/models/{model}", "/v2/models/{model}/versions/{version}"
        return [
            Route("GET", f"{one}/config", self._config, role=Role.INFER, doc=config),
            Route("GET", f"{versioned}/config", self._config, role=Role.INFER, doc=config),
            Route("GET", f"{one}/stats", self._stats, role=Role.INFER, doc=stats),
            Route("GET", f"{versioned}/stats", self._stats, role=Role.INFER, doc=stats),
            Route("GET", "/v2/models/stats", self._all_stats, role=Role.INFER, doc=everything),
        ]

    def _repository(self) -> list[Route]:
        index = Doc(
            summary="Every version that is loaded, or was refused and why",
            tag=TAG,
            body=IndexJson,
            body_required=False,
            example={"ready": True},
            answer=list[IndexEntryJson],
        )
        load = Doc(
            summary="Load a version beside those that the rollout names, or load those again",
            tag=TAG,
            body=RepositoryJson,
            body_required=False,
            example={"parameters": {"version": 2}},
            answer=DoneJson,
            statuses=(404, 503),
        )
        unload = Doc(
            summary="Unload a version that no rollout names, or a model until it is loaded again",
            tag=TAG,
            body=RepositoryJson,
            body_required=False,
            example={"parameters": {"version": 2}},
            answer=DoneJson,
            statuses=(404, 503),
        )
        one = "/v2/repository/models/{model}"
        return [
            Route("POST", "/v2/repository/index", self._index, role=Role.INFER, doc=index),
            Route("POST", f"{one}/load", self._load, role=Role.ADMIN, doc=load),
            Route("POST", f"{one}/unload", self._unload, role=Role.ADMIN, doc=unload),
        ]

    async def _config(self, request: Request) -> Response:
        name, *version = request.parts
        served = self._service.repository.model(name)
        loaded = served.pinned(parse_version(version[0])) if version else served.stable
        return json_response(model_config(loaded, list(served.versions)))

    async def _stats(self, request: Request) -> Response:
        name, *version = request.parts
        served = self._service.repository.model(name)
        wanted = [served.pinned(parse_version(version[0]))] if version else list(served.versions.values())
        return json_response(
            StatisticsJson([model_statistics(one, self._recorder.statistics(one.name, one.version)) for one in wanted])
        )

    async def _all_stats(self, request: Request) -> Response:
        del request
        wanted = [loaded for served in self._service.repository.models() for loaded in served.versions.values()]
        return json_response(
            StatisticsJson([model_statistics(one, self._recorder.statistics(one.name, one.version)) for one in wanted])
        )

    async def _index(self, request: Request) -> Response:
        check_media_type(request)
        wanted = decode_json(request.body or b"{}", IndexJson)
        entries = [entry for entry in self._service.repository.index() if entry.state == "READY" or not wanted.ready]
        return json_response(
            [IndexEntryJson(entry.name, str(entry.version), entry.state, entry.reason) for entry in entries]
        )

    async def _load(self, request: Request) -> Response:
        await self._service.repository.load(request.parts[0], _version(request))
        return json_response(DoneJson())

    async def _unload(self, request: Request) -> Response:
        await self._service.repository.unload(request.parts[0], _version(request))
        return json_response(DoneJson())


def _version(request: Request) -> int | None:
    """The version that a load or unload names.

    Raises:
        InvalidRequestError: It is not one, or the request brings a model or a configuration with it.
    """
    check_media_type(request)
    parameters = decode_json(request.body or b"{}", RepositoryJson).parameters
    if brought := [name for name in parameters if name == "config" or name.startswith("file:")]:
        raise InvalidRequestError(
            f"parameter {brought[0][:80]!r} is not taken: models come from the models folder, as bundles"
        )
    version = parameters.get("version")
    if version is None or (isinstance(version, int) and not isinstance(version, bool) and 0 < version < 10**9):
        return version
    if isinstance(version, str):
        return parse_version(version)
    raise InvalidRequestError(f"parameter 'version' must be a whole number above 0, got {str(version)[:40]!r}")


def _not_offered() -> list[Route]:
    """Paths that Triton's clients know, and that are answered with the reason why not."""
    memory = "shared memory is not offered; tensors go with requests and answers"
    logging = "log settings are not changed over the network; see log_level in the settings"
    tracing = "trace settings are not changed over the network; traces follow OpenTelemetry's settings"
    paths = [
        *((("GET", f"/v2/{kind}/status"), memory) for kind in _MEMORY),
        *((("GET", f"/v2/{kind}/region/{{region}}/status"), memory) for kind in _MEMORY),
        *((("POST", f"/v2/{kind}/region/{{region}}/register"), memory) for kind in _MEMORY),
        *((("POST", f"/v2/{kind}/region/{{region}}/unregister"), memory) for kind in _MEMORY),
        *((("POST", f"/v2/{kind}/unregister"), memory) for kind in _MEMORY),
        *(((method, "/v2/logging"), logging) for method in ("GET", "POST")),
        *(((method, "/v2/trace/setting"), tracing) for method in ("GET", "POST")),
        *(((method, "/v2/models/{model}/trace/setting"), tracing) for method in ("GET", "POST")),
    ]
    return [Route(method, path, _refusal(reason), role=Role.INFER) for (method, path), reason in paths]


_MEMORY = ("systemsharedmemory", "cudasharedmemory")


def _refusal(reason: str):  # noqa: ANN202 (a Handler)
    async def refuse(request: Request) -> Response:
        del request
        raise UnimplementedError(reason)

    return refuse
