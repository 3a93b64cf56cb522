"""A backend before a TorchServe that does what a test wants."""

from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from serving.backends.torchserve import TorchServeBackend
from serving.backends.torchserve_link import Locate, TorchServeLink
from tests.bundles import RATING_SIGNATURE
from tests.serving.backends.fake_torchserve import CALL_S, FakeTorchServe, scores


@pytest.fixture
def fake() -> Generator[FakeTorchServe]:
    fake = FakeTorchServe().start()
    yield fake
    fake.stop()


@pytest.fixture
def open_backend(fake: FakeTorchServe) -> Generator[Callable[..., TorchServeBackend]]:
    """Opens backends for ``mf`` 1, which are closed in the end."""
    opened: list[TorchServeBackend] = []

    def opener(locate: Locate = fake.locate, *, timeout_s: float = CALL_S) -> TorchServeBackend:
        link = TorchServeLink(locate)
        opened.append(TorchServeBackend(link, name="mf", version=1, signature=RATING_SIGNATURE, timeout_s=timeout_s))
        return opened[-1]

    yield opener
    for backend in opened:
        backend.close()


@pytest.fixture
def linked(open_backend: Callable[..., TorchServeBackend]) -> TorchServeBackend:
    return open_backend()


@pytest.fixture
def start_run(linked: TorchServeBackend) -> Generator[Callable[[], "Future[list[float]]"]]:
    """Starts a run in a thread of its own."""
    with ThreadPoolExecutor(4) as pool:
        yield lambda: pool.submit(scores, linked)
