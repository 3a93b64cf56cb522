"""One process's repository, in process."""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from driftwheel.settings import Settings
from monitoring.metrics import ServingMetrics
from serving.repository import ModelRepository
from tests.serving.conftest import prepared_home


class Worker:
    """One process's repository, with what it reports."""

    def __init__(self, settings: Settings, **options: Any) -> None:
        self.metrics = ServingMetrics(CollectorRegistry())
        self.retired: list[tuple[str, int]] = []
        self.forgotten: list[tuple[str, int]] = []
        self.executor = ThreadPoolExecutor(2)
        self.repository = ModelRepository(
            settings,
            self.metrics,
            self.executor,
            runs_of=lambda name, version: lambda rows, seconds: None,
            clock=time.monotonic,
            on_retired=self._on_retired,
            on_forgotten=self._on_forgotten,
            **options,
        )

    async def _on_retired(self, name: str, version: int) -> None:
        self.retired.append((name, version))

    def _on_forgotten(self, name: str, version: int) -> None:
        self.forgotten.append((name, version))
        self.metrics.forget(name, str(version))

    def states(self, model: str = "mf") -> dict[int, str]:
        return {entry.version: entry.state for entry in self.repository.index() if entry.name == model}


@asynccontextmanager
async def worker(settings: Settings, **options: Any) -> AsyncGenerator[Worker]:
    one = Worker(settings, **options)
    await one.repository.sync()
    yield one
    await one.repository.close()
    one.executor.shutdown()


def run(home: Path, check: Callable[[Settings, Worker], Awaitable[None]], **options: Any) -> None:
    """Check one worker over a home with two versions of mf, the first in service."""
    settings = prepared_home(home)

    async def inner() -> None:
        async with worker(settings, **options) as one:
            await check(settings, one)

    asyncio.run(inner())


async def set_forward(one: Worker, *, left: int, by_s: float) -> None:
    """Let so much time pass for the running loop once so many versions wait to be forgotten."""
    await until(lambda: len(one.repository._retirement._timers) == left)
    loop = asyncio.get_running_loop()
    now = loop.time
    loop.time = lambda: now() + by_s


async def until(condition: Callable[[], bool]) -> None:
    give_up = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < give_up
        await asyncio.sleep(0.005)
