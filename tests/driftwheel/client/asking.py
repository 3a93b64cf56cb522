"""How tests put a question to either client, and what they ask and are told."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np

from driftwheel.client import AsyncClient, Client
from serving._proto import open_inference_pb2 as pb

PAIR = {"user_id": np.array([15]), "item_id": np.array([40])}
METADATA = pb.ModelMetadataResponse(name="mf", versions=["1"]).SerializeToString()
ACCEPTED = b'{"accepted": 1}'
LABELS = [("mf.1.abc", 0, 4.5)]

Ask = Callable[..., Any]


def ask_blocking(
    target: str, question: Callable[[Any], Any], *, pauses: list[float] | None = None, **options: Any
) -> Any:
    with Client(target, sleep=([] if pauses is None else pauses).append, random=lambda: 1.0, **options) as client:
        return question(client)


def ask_asynchronous(
    target: str, question: Callable[[Any], Awaitable[Any]], *, pauses: list[float] | None = None, **options: Any
) -> Any:
    async def sleep(seconds: float) -> None:
        ([] if pauses is None else pauses).append(seconds)

    async def asked() -> Any:
        async with AsyncClient(target, sleep=sleep, random=lambda: 1.0, **options) as client:
            return await question(client)

    return asyncio.run(asked())
