"""gRPC's health checking, asked by grpcio's own stub."""

import asyncio
import threading
from collections.abc import AsyncIterator, Generator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from serving.front_door import running
from serving.transports.grpc_calls import CallContext
from serving.transports.health_grpc import HealthGrpc
from tests.serving.conftest import Live, connected, prepared_home

pytestmark = pytest.mark.system

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture
def stub(live: Live) -> Generator[health_pb2_grpc.HealthStub]:
    with grpc.insecure_channel(live.address.target) as channel:
        yield health_pb2_grpc.HealthStub(channel)


@pytest.mark.parametrize("service", ["", "inference.GRPCInferenceService", "mf", "churn"])
def test_check(stub: health_pb2_grpc.HealthStub, service: str) -> None:
    assert stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=60).status == SERVING


def test_an_unknown_service(stub: health_pb2_grpc.HealthStub) -> None:
    request = health_pb2.HealthCheckRequest(service="nope")
    with pytest.raises(grpc.RpcError, match="no service or model 'nope'") as refused:
        stub.Check(request, timeout=60)
    assert refused.value.code() == grpc.StatusCode.NOT_FOUND
    watch = stub.Watch(request, timeout=60)
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
    watch.cancel()


def test_a_watch_hears_of_a_drain_and_does_not_hold_it_up(tmp_path: Path) -> None:
    settings = prepared_home(tmp_path, serving={"port": 0, "drain_timeout_s": 60})
    heard: list[int] = []
    serving = threading.Event()
    ended: list[grpc.StatusCode] = []

    def watch(stub: health_pb2_grpc.HealthStub) -> None:
        try:
            for response in stub.Watch(health_pb2.HealthCheckRequest(), timeout=60):
                heard.append(response.status)
                serving.set()
        except grpc.RpcError as error:
            ended.append(error.code())

    with running(settings) as (door, address), connected(settings, door, address):
        channel = grpc.insecure_channel(address.target)
        watcher = threading.Thread(target=watch, args=(health_pb2_grpc.HealthStub(channel),))
        watcher.start()
        assert serving.wait(60)
    watcher.join(60)
    channel.close()
    assert heard == [SERVING, NOT_SERVING]
    assert ended == [grpc.StatusCode.UNAVAILABLE]


def test_a_quiet_watch_is_kept_alive() -> None:
    class Ready:
        ready, draining = True, False

    now = [0.0]
    health = HealthGrpc(Ready(), frozenset(), clock=lambda: now[0])

    async def request() -> AsyncIterator[bytes]:
        yield b""

    async def heard() -> list[int]:
        watch = health.methods()["/grpc.health.v1.Health/Watch"].handler(request(), CallContext(None, []))
        first = await anext(watch)
        now[0] = 61.0
        second = await anext(watch)
        await watch.aclose()
        return [health_pb2.HealthCheckResponse.FromString(message).status for message in (first, second)]

    assert asyncio.run(heard()) == [SERVING, SERVING]
