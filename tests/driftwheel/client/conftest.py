"""Both clients, and servers for them."""

from collections.abc import Generator

import pytest

from serving.access import Role
from serving.front_door import running
from serving.security import default_token_file
from serving.tokens import add_token
from tests.driftwheel.client.asking import Ask, ask_asynchronous, ask_blocking
from tests.serving.certificates import Authority
from tests.serving.conftest import prepared_home


@pytest.fixture(params=[ask_blocking, ask_asynchronous], ids=["blocking", "asynchronous"])
def ask(request: pytest.FixtureRequest) -> Ask:
    """Open a client, put a question to it, close it: every test below holds for both."""
    return request.param


@pytest.fixture(scope="session")
def target(tmp_path_factory: pytest.TempPathFactory) -> Generator[str]:
    """A real server."""
    limits = {"port": 0, "max_request_bytes": 64 * 1024}
    with running(prepared_home(tmp_path_factory.mktemp("home"), serving=limits)) as (_, address):
        yield address.target


@pytest.fixture(scope="session")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Generator[tuple[str, dict[Role, str]]]:
    """A server that asks for tokens, and a token for each role."""
    settings = prepared_home(tmp_path_factory.mktemp("guarded"))
    tokens = {role: add_token(default_token_file(settings), role, frozenset({role})) for role in Role}
    with running(settings) as (_, address):
        yield address.target, tokens


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"), "authority")
