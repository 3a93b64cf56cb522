"""Features in a real Redis with a password, which several hosts could share."""

import asyncio
import shutil
import socket
import subprocess
import time
from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from driftwheel.errors import ConfigurationError, UnavailableError
from driftwheel.settings import Settings, load_settings
from driftwheel.wheel import features
from monitoring.metrics import ServingMetrics
from serving.features import OnlineFeatures
from tests.serving.test_features import sources_in, table

pytestmark = pytest.mark.system

BUILT = datetime(2026, 3, 1, tzinfo=UTC)
PASSWORD = "hush-hush-1"


@contextmanager
def redis(folder: Path) -> Generator[tuple[int, "subprocess.Popen[bytes]"]]:
    """The port of a Redis that keeps nothing, and its process."""
    server = shutil.which("redis-server")
    if server is None:
        pytest.skip("needs Debian's redis-server")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = [
        "--port",
        str(port),
        "--bind",
        "127.0.0.1",
        "--requirepass",
        PASSWORD,
        "--save",
        "",
        "--dir",
        str(folder),
    ]
    with (folder / "redis.log").open("wb") as log:
        process = subprocess.Popen([server, *options], stdout=log, stderr=log)
    try:
        give_up = time.monotonic() + 60
        while not answers(port):
            assert process.poll() is None, (folder / "redis.log").read_text()
            assert time.monotonic() < give_up
            time.sleep(0.02)
        yield port, process
    finally:
        process.kill()
        process.wait()


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def settings_for(folder: Path, port: int) -> Settings:
    own = {"online_store": "redis", "redis": f"127.0.0.1:{port},password={PASSWORD}", "max_age_s": 1e9}
    return load_settings(home=folder / "home", features={**own, "timeout_ms": 60_000, "serve": True})


def test_what_is_brought_to_redis_is_what_is_read(tmp_path: Path) -> None:
    with redis(tmp_path) as (port, process):
        settings = settings_for(tmp_path, port)
        assert PASSWORD not in repr(settings)
        features.build(settings, sources_in(tmp_path), at=BUILT)
        features.materialize(settings, until=BUILT)
        assert not (settings.features_folder / "online.sqlite").exists()
        (user,) = features.get(settings, "users", ["1"])
        assert (user["user_avg_rating"], user["user_rating_count"]) == (4.5, 2)
        registry = CollectorRegistry()
        asyncio.run(_read_until_redis_is_gone(settings, process, ServingMetrics(registry)))
        page = generate_latest(registry).decode()
        # Which of both depends on how long the client tries to connect again.
        assert any(f'driftwheel_feature_failures_total{{reason="{why}"}} 1.0' in page for why in ("error", "timeout"))


async def _read_until_redis_is_gone(
    settings: Settings, process: "subprocess.Popen[bytes]", metrics: ServingMetrics
) -> None:
    store = OnlineFeatures(settings.features, settings.features_folder, metrics)
    await store.open()
    read = await store.fetch(["c1", "c0"], None)
    expected = table().astype({"tenure": "float32"}).iloc[1]
    assert (read.columns["tenure"], read.columns["contract"]) == (
        [expected["tenure"], None],
        [expected["contract"], None],
    )
    store.close()
    impatient = settings.features.model_copy(update={"timeout_ms": 1000})
    store = OnlineFeatures(impatient, settings.features_folder, metrics)
    await store.open()
    process.kill()
    process.wait()
    with pytest.raises(UnavailableError, match="the feature store (failed|took longer)"):
        await store.fetch(["c1"], None)
    store.close()


@pytest.mark.parametrize(
    "faulty", [{"online_store": "redis"}, {"redis": "cache:6379"}, {"online_store": "redis", "redis": "cache"}]
)
def test_settings_that_do_not_fit_together_are_named(tmp_path: Path, faulty: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError, match=r"features.*redis"):
        load_settings(home=tmp_path, features=faulty)
