"""What the soak's clients do: every protocol and endpoint, each call with the outcome that it must have."""

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Self

import grpc
import httpx
import numpy as np
import tritonclient.http.aio as triton

from benchmarks.models import ITEM_COUNT, USERS
from serving._proto import health_pb2, reflection_v1alpha_pb2, torchserve_inference_pb2
from serving._proto import open_inference_pb2 as pb
from serving._proto.open_inference_pb2_grpc import GRPCInferenceServiceStub
from serving._proto.torchserve_inference_pb2_grpc import InferenceAPIsServiceStub

Action = Callable[[], Awaitable[None]]

_ROWS = (1, 1, 1, 10, 100, 1000)
_TIMEOUT_S = 10.0


class WrongAnswerError(Exception):
    """A call was answered, but not as it must be."""


def expect(truth: object, what: str) -> None:
    """Raise ``WrongAnswerError`` unless it is so."""
    if not truth:
        raise WrongAnswerError(what)


class Clients:
    """One process's clients, and what they can do.

    Args:
        seen_versions: Filled with the versions that answered.
    """

    def __init__(self, target: str, rng: random.Random, seen_versions: set[int]) -> None:
        self._target = target
        self._rng = rng
        self._versions = seen_versions
        self._prediction_ids: list[str] = []

    async def __aenter__(self) -> Self:
        self._channel = grpc.aio.insecure_channel(self._target)
        self._oip: Any = GRPCInferenceServiceStub(self._channel)
        self._torchserve: Any = InferenceAPIsServiceStub(self._channel)
        self._http = httpx.AsyncClient(base_url=f"http://{self._target}", timeout=_TIMEOUT_S)
        self._triton: Any = triton.InferenceServerClient(self._target)
        return self

    async def __aexit__(self, *args: object) -> None:
        await self._channel.close()
        await self._http.aclose()
        await self._triton.close()

    def actions(self) -> dict[str, tuple[float, Action]]:
        """Each action by name, with its weight."""
        return {
            "gRPC raw": (20, self._grpc_raw),
            "gRPC typed": (6, self._grpc_typed),
            "gRPC gzip": (4, self._grpc_gzip),
            "gRPC stream": (6, self._grpc_stream),
            "gRPC churn": (4, self._grpc_churn),
            "gRPC wrong request": (3, self._grpc_wrong),
            "gRPC short deadline": (3, self._grpc_short_deadline),
            "gRPC metadata": (2, self._grpc_metadata),
            "gRPC health": (1, self._grpc_health),
            "gRPC reflection": (1, self._grpc_reflection),
            "TorchServe gRPC": (4, self._torchserve_grpc),
            "TorchServe REST": (4, self._torchserve_rest),
            "REST JSON": (8, self._rest_json),
            "REST binary tensors": (6, self._rest_binary),
            "REST wrong request": (3, self._rest_wrong),
            "REST metadata": (2, self._rest_metadata),
            "recommend": (8, self._recommend),
            "churn": (5, self._churn),
            "feedback": (5, self._feedback),
            "metrics": (0.5, self._metrics),
            "OpenAPI": (0.3, self._openapi),
        }

    def _pairs(self) -> tuple[np.ndarray, np.ndarray]:
        rows = self._rng.choice(_ROWS)
        start = self._rng.randrange(USERS)
        return (np.arange(start, start + rows) % (USERS + 5)).astype("<i8"), np.arange(
            rows, dtype="<i8"
        ) % ITEM_COUNT + 1

    def _raw(self, users: np.ndarray, items: np.ndarray) -> pb.ModelInferRequest:
        return pb.ModelInferRequest(
            model_name="mf",
            inputs=[{"name": name, "datatype": "INT64", "shape": [len(users)]} for name in ("user_id", "item_id")],
            raw_input_contents=[users.tobytes(), items.tobytes()],
        )

    def _check(self, answer: Any, rows: int) -> None:
        scores = np.frombuffer(answer.raw_output_contents[0], "<f4")
        expect(scores.shape == (rows,) and np.isfinite(scores).all(), f"{rows} rows gave {scores.shape}")
        self._versions.add(int(answer.model_version))
        self._remember(answer.parameters["prediction_id"].string_param)

    def _remember(self, prediction_id: str) -> None:
        expect(prediction_id, "an answer without prediction id")
        self._prediction_ids = [*self._prediction_ids[-50:], prediction_id]

    async def _grpc_raw(self) -> None:
        users, items = self._pairs()
        self._check(await self._oip.ModelInfer(self._raw(users, items), timeout=_TIMEOUT_S), len(users))

    async def _grpc_gzip(self) -> None:
        users, items = self._pairs()
        call = self._oip.ModelInfer(self._raw(users, items), timeout=_TIMEOUT_S, compression=grpc.Compression.Gzip)
        self._check(await call, len(users))

    async def _grpc_typed(self) -> None:
        users, items = self._pairs()
        request = pb.ModelInferRequest(model_name="mf")
        for name, values in (("user_id", users), ("item_id", items)):
            request.inputs.add(name=name, datatype="INT64", shape=[len(values)]).contents.int64_contents.extend(
                values.tolist()
            )
        self._check(await self._oip.ModelInfer(request, timeout=_TIMEOUT_S), len(users))

    async def _grpc_stream(self) -> None:
        asked = [self._pairs() for _ in range(self._rng.randint(1, 5))]

        async def requests() -> AsyncIterator[pb.ModelInferRequest]:
            for users, items in asked:
                yield self._raw(users, items)

        came = 0
        async for answer in self._oip.ModelStreamInfer(requests(), timeout=_TIMEOUT_S):
            expect(not answer.error_message, answer.error_message)
            self._check(answer.infer_response, len(asked[came][0]))
            came += 1
        expect(came == len(asked), f"{len(asked)} requests on a stream got {came} answers")

    async def _grpc_churn(self) -> None:
        request = pb.ModelInferRequest(model_name="churn")
        request.inputs.add(name="contract", datatype="BYTES", shape=[2]).contents.bytes_contents.extend(
            [b"One year", b"?"]
        )
        request.inputs.add(name="tenure", datatype="FP32", shape=[2]).contents.fp32_contents.extend([3.0, 40.0])
        answer = await self._oip.ModelInfer(request, timeout=_TIMEOUT_S)
        expect(list(answer.outputs[0].shape) == [2], "churn of two customers")

    async def _grpc_wrong(self) -> None:
        """Each of these must be refused, and must not harm its neighbours in a batch."""
        users, items = self._pairs()
        request = self._raw(users, items)
        fault = self._rng.randrange(4)
        if fault == 0:
            request.model_name = "nobody"
        elif fault == 1:
            request.raw_input_contents[0] += b"x"
        elif fault == 2:
            request.inputs[0].datatype = "FP32"
        else:
            request.inputs[1].shape[0] += 1
        try:
            await self._oip.ModelInfer(request, timeout=_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            wanted = grpc.StatusCode.NOT_FOUND if fault == 0 else grpc.StatusCode.INVALID_ARGUMENT
            if error.code() == wanted:
                return
            raise
        raise WrongAnswerError(f"a wrong request ({fault}) was answered")

    async def _grpc_short_deadline(self) -> None:
        """In time or not, but nothing else."""
        users, items = self._pairs()
        try:
            await self._oip.ModelInfer(self._raw(users, items), timeout=self._rng.uniform(0.0005, 0.005))
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:
                raise

    async def _grpc_metadata(self) -> None:
        asked = self._rng.randrange(6)
        if asked == 0:
            expect((await self._oip.ServerReady(pb.ServerReadyRequest(), timeout=_TIMEOUT_S)).ready, "ready")
        elif asked == 1:
            metadata = await self._oip.ModelMetadata(pb.ModelMetadataRequest(name="mf"), timeout=_TIMEOUT_S)
            expect(len(metadata.inputs) == 2, "two inputs")
        elif asked == 2:
            await self._oip.ModelConfig(pb.ModelConfigRequest(name="mf"), timeout=_TIMEOUT_S)
        elif asked == 3:
            await self._oip.ModelStatistics(pb.ModelStatisticsRequest(name="mf"), timeout=_TIMEOUT_S)
        elif asked == 4:
            index = await self._oip.RepositoryIndex(pb.RepositoryIndexRequest(), timeout=_TIMEOUT_S)
            expect(any(one.name == "mf" for one in index.models), "mf in the index")
        else:
            expect((await self._oip.ModelReady(pb.ModelReadyRequest(name="mf"), timeout=_TIMEOUT_S)).ready, "mf ready")

    async def _grpc_health(self) -> None:
        check: Any = self._channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        answer = await check(health_pb2.HealthCheckRequest(), timeout=_TIMEOUT_S)
        expect(answer.status == health_pb2.HealthCheckResponse.SERVING, f"health {answer.status}")

    async def _grpc_reflection(self) -> None:
        messages = reflection_v1alpha_pb2
        call: Any = self._channel.stream_stream(
            "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
            request_serializer=messages.ServerReflectionRequest.SerializeToString,
            response_deserializer=messages.ServerReflectionResponse.FromString,
        )

        async def requests() -> AsyncIterator[Any]:
            yield messages.ServerReflectionRequest(list_services="")

        answers = [answer async for answer in call(requests(), timeout=_TIMEOUT_S)]
        expect(len(answers) == 1 and answers[0].list_services_response.service, "a list of services")

    async def _torchserve_grpc(self) -> None:
        messages = torchserve_inference_pb2
        body = b'[{"user_id": 5, "item_id": 7}, {"user_id": 6, "item_id": 8}]'
        request = messages.PredictionsRequest(model_name="mf", input={"data": body})
        answer = await self._torchserve.Predictions(request, timeout=_TIMEOUT_S)
        expect(answer.prediction.count(b",") == 1, f"two predictions, not {answer.prediction}")

    async def _torchserve_rest(self) -> None:
        if self._rng.random() < 0.3:
            expect((await self._get("/ping"))["status"] == "Healthy", "ping")
        elif self._rng.random() < 0.3:
            expect((await self._get("/models"))["models"], "a list of models")
        else:
            answer = await self._post("/predictions/mf", [{"user_id": 5, "item_id": 7}])
            expect(len(answer) == 1, f"one prediction, not {answer}")

    async def _rest_json(self) -> None:
        users, items = self._pairs()
        columns = {"user_id": users, "item_id": items}
        body = {
            "inputs": [
                {"name": name, "datatype": "INT64", "shape": [len(users)], "data": values.tolist()}
                for name, values in columns.items()
            ]
        }
        answer = await self._post("/v2/models/mf/infer", body)
        expect(len(answer["outputs"][0]["data"]) == len(users), "as many scores as pairs")
        self._versions.add(int(answer["model_version"]))

    async def _rest_binary(self) -> None:
        users, items = self._pairs()
        inputs: list[Any] = []
        for name, values in (("user_id", users), ("item_id", items)):
            inputs.append(triton.InferInput(name, [len(values)], "INT64"))
            inputs[-1].set_data_from_numpy(values, binary_data=True)
        outputs = [triton.InferRequestedOutput("score", binary_data=True)]
        answer = await self._triton.infer("mf", inputs, outputs=outputs)
        expect(answer.as_numpy("score").shape == (len(users),), "as many scores as pairs")

    async def _rest_wrong(self) -> None:
        fault = self._rng.randrange(4)
        paths = ("/v2/models/mf/infer", "/v2/models/nobody/infer", "/v1/recommend", "/no/such/path")
        bodies = (b'{"inputs": [{"name": "user_id"}]}', b'{"inputs": []}', b'{"user_id": 5, "k": -1}', b"{}")
        answer = await self._http.post(
            paths[fault], content=bodies[fault], headers={"content-type": "application/json"}
        )
        expect(answer.status_code == (404 if fault in (1, 3) else 400), f"{paths[fault]} gave {answer.status_code}")

    async def _rest_metadata(self) -> None:
        path = self._rng.choice(("/v2", "/v2/models/mf", "/v2/health/live", "/v2/health/ready", "/v2/models/mf/ready"))
        await self._get(path)

    async def _recommend(self) -> None:
        user = self._rng.randrange(1, USERS + 50)  # some are unknown
        answer = await self._post("/v1/recommend", {"user_id": user, "k": 10, "exclude": [1, 2, 3]})
        expect(len(answer["items"]) == 10, f"ten items, not {len(answer['items'])}")
        self._remember(answer["prediction_id"])

    async def _churn(self) -> None:
        answer = await self._post("/v1/churn", {"customers": [{"contract": "One year", "tenure": 3}, {"tenure": None}]})
        expect(len(answer["predictions"]) == 2, "two predictions")

    async def _feedback(self) -> None:
        if not self._prediction_ids:
            return
        label = {"prediction_id": self._rng.choice(self._prediction_ids), "row": 0, "label": 4.0}
        expect((await self._post("/v1/feedback", {"feedback": [label]}))["accepted"] == 1, "one label accepted")

    async def _metrics(self) -> None:
        answer = await self._http.get("/metrics")
        expect(answer.status_code == 200 and "driftwheel_requests_total" in answer.text, "metrics")

    async def _openapi(self) -> None:
        await self._get("/openapi.json")

    async def _get(self, path: str) -> Any:
        return _json(await self._http.get(path))

    async def _post(self, path: str, body: object) -> Any:
        return _json(await self._http.post(path, json=body))


def _json(answer: httpx.Response) -> Any:
    expect(answer.status_code == 200, f"{answer.request.url.path} gave {answer.status_code}: {answer.text[:200]}")
    return answer.json()
