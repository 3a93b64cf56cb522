"""One application for all fuzz tests."""

from collections.abc import Generator

import pytest

from tests.fuzz.harness import InProcess, small_home


@pytest.fixture(scope="session")
def application(tmp_path_factory: pytest.TempPathFactory) -> Generator[InProcess]:
    """Started once; what one request does to it, the next one may meet."""
    running = InProcess(small_home(tmp_path_factory.mktemp("fuzz")))
    yield running
    running.close()
