"""The wheel's own commands on a home whose server asks for tokens and certificates."""

from pathlib import Path

import pytest

from driftwheel.client import UnauthenticatedError
from driftwheel.wheel.connecting import connect
from driftwheel.wheel.server import ensured_server, wait_until_loaded
from serving.tokens import Role, add_token
from tests.serving.certificates import Authority
from tests.serving.conftest import prepared_home


@pytest.mark.system
def test_a_home_starts_and_asks_a_server_that_wants_tokens_and_certificates(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "authority")
    server, own = authority.pair("server"), authority.pair("own")
    home = tmp_path / "home"
    home.mkdir()
    token = tmp_path / "token"
    token.write_text(add_token(home / "tokens.toml", "wheel", frozenset({Role.INFER, Role.FEEDBACK})))
    security = {"tls_certificate": server.certificate, "tls_key": server.key, "tls_client_ca": authority.file}
    client = {"tls_ca": authority.file, "tls_certificate": own.certificate, "tls_key": own.key}
    settings = prepared_home(home, security=security, client={**client, "token_file": token})
    with ensured_server(settings) as address:
        assert address.url.startswith("https://")
        with connect(settings, address.target) as allowed:
            wait_until_loaded(allowed, "mf", 1)
        stranger = settings.model_copy(update={"client": settings.client.model_copy(update={"token_file": None})})
        with connect(stranger, address.target) as refused, pytest.raises(UnauthenticatedError):
            refused.versions("mf")
