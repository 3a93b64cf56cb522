"""How calls travel: headers, tokens, TLS, threads."""

import ssl
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from driftwheel.client import (
    Client,
    Tls,
    UnavailableError,
)
from driftwheel.errors import ConfigurationError
from tests.driftwheel.client.asking import ACCEPTED, LABELS, METADATA, PAIR, Ask
from tests.driftwheel.client.scripted import grpc_server, http_server
from tests.serving.certificates import Authority


class TestTravel:
    def test_who_calls_and_how_long_it_waits(self, ask: Ask) -> None:
        with grpc_server(METADATA) as script:
            ask(
                script.target,
                lambda client: client.metadata("mf", timeout_s=7.0),
                headers=lambda: {"traceparent": "00-1"},
            )
        (seen,) = script.seen
        assert seen.headers["user-agent"].startswith("driftwheel-python/")
        assert seen.headers["traceparent"] == "00-1"
        assert seen.timeout_s is not None
        assert 0 < seen.timeout_s < 8  # gRPC rounds it up on the way
        with http_server(ACCEPTED) as script:
            ask(script.target, lambda client: client.feedback(LABELS), clock=lambda: 0.0)
        assert script.seen[0].headers["user-agent"].startswith("driftwheel-python/")
        assert script.seen[0].headers["x-request-timeout-ms"] == "10000"

    def test_a_token_goes_along(self, ask: Ask) -> None:
        with grpc_server(METADATA) as script:
            ask(script.target, lambda client: client.metadata("mf"), token="secret")
        assert script.seen[0].headers["authorization"] == "Bearer secret"
        with http_server(ACCEPTED) as script:
            ask(script.target, lambda client: client.feedback(LABELS), token="secret")
        assert script.seen[0].headers["authorization"] == "Bearer secret"

    def test_a_token_file_is_followed(self, tmp_path: Path) -> None:
        path = tmp_path / "token"
        path.write_text("one\n")
        with grpc_server(METADATA, METADATA) as script, Client(script.target, token_file=path) as client:
            client.metadata("mf")
            path.write_text("second\n")
            client.metadata("mf")
        assert [seen.headers["authorization"] for seen in script.seen] == ["Bearer one", "Bearer second"]

    def test_a_token_file_that_cannot_be_used(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigurationError, match="cannot be read"):
            Client("localhost:1", token_file=tmp_path / "none")
        (tmp_path / "empty").touch()
        with pytest.raises(ConfigurationError, match="is empty"):
            Client("localhost:1", token_file=tmp_path / "empty")

    def test_a_token_does_not_leave_the_machine_unencrypted(self) -> None:
        with pytest.raises(ConfigurationError, match="unencrypted"):
            Client("models.example:8080", token="secret")
        for fine in ({"tls": Tls()}, {"plaintext_token": True}):
            Client("models.example:8080", token="secret", **fine).close()

    @pytest.mark.parametrize(
        "target", ["localhost", "http://localhost:1", "localhost:x", "localhost:1/v2", "::1:80", ""]
    )
    def test_a_target_that_is_none(self, target: str) -> None:
        with pytest.raises(ConfigurationError, match="host:port"):
            Client(target)

    def test_tls_over_grpc(self, ask: Ask, authority: Authority) -> None:
        server, ours = authority.pair("server"), authority.pair("client")
        pair = (server.key.read_bytes(), server.certificate.read_bytes())
        asks = grpc.ssl_server_credentials([pair], authority.file.read_bytes(), require_client_auth=True)
        both = Tls(ca=authority.file, certificate=ours.certificate, key=ours.key, server_name="localhost")
        with grpc_server(METADATA, credentials=asks) as script:
            assert ask(script.target, lambda client: client.metadata("mf"), tls=both, token="secret").name == "mf"
            assert script.seen[0].headers["authorization"] == "Bearer secret"
            for refused in (Tls(ca=authority.file), Tls()):
                with pytest.raises(UnavailableError):
                    ask(script.target, lambda client: client.ready(), tls=refused)

    def test_tls_over_http(self, ask: Ask, authority: Authority) -> None:
        ours = authority.pair("client")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*authority.pair("server").files)
        context.load_verify_locations(authority.file)
        context.verify_mode = ssl.CERT_REQUIRED
        pair = {"certificate": ours.certificate, "key": ours.key}
        with http_server(ACCEPTED, tls=context) as script:
            tls = Tls(ca=authority.file, server_name="localhost", **pair)
            assert ask(script.target, lambda client: client.feedback(LABELS), tls=tls) == 1
            with pytest.raises(UnavailableError, match="CERTIFICATE_VERIFY_FAILED"):
                ask(script.target, lambda client: client.feedback(LABELS), tls=Tls(**pair))
            with pytest.raises(UnavailableError, match="CERTIFICATE_VERIFY_FAILED"):
                other = Tls(ca=authority.file, server_name="other.example", **pair)
                ask(script.target, lambda client: client.feedback(LABELS), tls=other)
            with pytest.raises(UnavailableError):
                ask(script.target, lambda client: client.feedback(LABELS), tls=Tls(ca=authority.file))

    def test_half_a_certificate(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigurationError, match="go together"):
            Tls(key=tmp_path / "key.pem")
        with pytest.raises(ConfigurationError, match="cannot be used"):
            Client("localhost:1", tls=Tls(ca=tmp_path / "none.pem"))

    def test_threads_share_a_client(self, target: str) -> None:
        with Client(target) as client, ThreadPoolExecutor(8) as threads:
            answers = list(threads.map(lambda user: client.churn([{"tenure": user}]), range(100)))
            scores = list(threads.map(lambda _: client.infer("mf", PAIR), range(100)))
        assert len({answer.prediction_id for answer in [*answers, *scores]}) == 200
