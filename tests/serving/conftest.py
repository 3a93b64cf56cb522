"""A real server over small hand-made bundles."""

from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest

from driftwheel.rollout import serve_stable
from driftwheel.settings import Settings, load_settings
from serving._proto import open_inference_pb2 as pb
from serving._proto.open_inference_pb2_grpc import GRPCInferenceServiceStub
from serving.front_door import FrontDoor, running
from serving.runtime import ServerAddress
from tests.bundles import make_churn_bundle, make_rating_bundle

BY = {"by": "test", "now": "2026-01-01T00:00:00Z"}


@dataclass
class Live:
    """A running server, with clients that know it."""

    settings: Settings
    door: FrontDoor
    address: ServerAddress
    http: httpx.Client
    stub: GRPCInferenceServiceStub


def prepared_home(home: Path, **sections: Any) -> Settings:
    """A home with two versions of ``mf`` (2 scores 0.25 higher) and one of ``churn``, version 1 in service."""
    settings = load_settings(home=home, **{"serving": {"port": 0}, **sections})
    make_rating_bundle(settings.models, 1)
    make_rating_bundle(settings.models, 2, shift=0.25)
    make_churn_bundle(settings.models, 1)
    serve_stable(settings.rollouts, "mf", 1, **BY)
    serve_stable(settings.rollouts, "churn", 1, **BY)
    return settings


@pytest.fixture(scope="session")
def live(tmp_path_factory: pytest.TempPathFactory) -> Generator[Live]:
    """One server for the tests that change nothing."""
    limits = {"port": 0, "max_request_bytes": 64 * 1024, "max_rows_per_request": 2000}
    settings = prepared_home(tmp_path_factory.mktemp("home"), serving=limits)
    with running(settings) as (door, address), connected(settings, door, address) as server:
        yield server


class connected:  # noqa: N801 (used as a function)
    """Clients for a running server."""

    def __init__(self, settings: Settings, door: FrontDoor, address: ServerAddress) -> None:
        self._channel = grpc.insecure_channel(address.target)
        stub = GRPCInferenceServiceStub(self._channel)
        self._http = httpx.Client(base_url=address.url, timeout=60)
        self._live = Live(settings, door, address, self._http, stub)

    def __enter__(self) -> Live:
        return self._live

    def __exit__(self, *args: object) -> None:
        self._http.close()
        self._channel.close()


def rating_request(users: list[int], items: list[int], **fields: Any) -> pb.ModelInferRequest:
    """A raw-tensor request to ``mf``."""
    return pb.ModelInferRequest(
        model_name="mf",
        inputs=[
            {"name": "user_id", "datatype": "INT64", "shape": [len(users)]},
            {"name": "item_id", "datatype": "INT64", "shape": [len(items)]},
        ],
        raw_input_contents=[np.array(users, "<i8").tobytes(), np.array(items, "<i8").tobytes()],
        **fields,
    )


def scores_of(response: pb.ModelInferResponse) -> list[float]:
    """The answer's one output."""
    return np.frombuffer(response.raw_output_contents[0], "<f4").tolist()
