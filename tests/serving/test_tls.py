"""TLS and mutual TLS: with real clients, with certificates that do not fit, and with certificates that change."""

import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

import grpc
import httpx
import pytest
from cryptography import x509

from driftwheel.errors import ConfigurationError
from driftwheel.settings import Settings, load_settings
from serving._proto import open_inference_pb2 as pb
from serving._proto.open_inference_pb2_grpc import GRPCInferenceServiceStub
from serving.front_door import running
from serving.runtime import ServerAddress, server_address
from serving.security import secured
from tests.serving.certificates import Authority, Pair
from tests.serving.conftest import prepared_home, rating_request, scores_of


@dataclass
class Secured:
    """A server that speaks TLS, and whom it trusts."""

    settings: Settings
    address: ServerAddress
    authority: Authority
    server: Pair
    client: Pair

    def context(self, pair: Pair | None = None, *, trusts: Authority | None = None) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=(trusts or self.authority).file)
        if pair is not None:
            context.load_cert_chain(*pair.files)
        return context

    def get(self, pair: Pair | None = None, *, trusts: Authority | None = None) -> httpx.Response:
        return httpx.get(f"{self.address.url}/v2/health/live", verify=self.context(pair, trusts=trusts), timeout=60)

    def grpc_live(self, pair: Pair | None = None, *, trusts: Authority | None = None) -> bool:
        key, chain = (pair.key.read_bytes(), pair.certificate.read_bytes()) if pair else (None, None)
        credentials = grpc.ssl_channel_credentials((trusts or self.authority).file.read_bytes(), key, chain)
        with grpc.secure_channel(self.address.target, credentials) as channel:
            return GRPCInferenceServiceStub(channel).ServerLive(pb.ServerLiveRequest(), timeout=60).live

    def serial(self, pair: Pair | None = None) -> int:
        """The serial number of the certificate that a new connection is shown."""
        with (
            socket.create_connection((self.address.host, self.address.port), timeout=60) as plain,
            self.context(pair).wrap_socket(plain, server_hostname="localhost") as connection,
        ):
            return x509.load_der_x509_certificate(connection.getpeercert(binary_form=True) or b"").serial_number


@pytest.fixture(scope="module")
def mutual(tmp_path_factory: pytest.TempPathFactory) -> Generator[Secured]:
    """A server that asks clients for a certificate."""
    home = tmp_path_factory.mktemp("mutual")
    authority = Authority(home, "authority")
    server, client = authority.pair("server"), authority.pair("client")
    security = {"tls_certificate": server.certificate, "tls_key": server.key, "tls_client_ca": authority.file}
    settings = prepared_home(home, security=security)
    with running(settings) as (_, address):
        yield Secured(settings, address, authority, server, client)


@pytest.mark.system
def test_a_client_with_a_certificate_is_answered_over_both_protocols(mutual: Secured) -> None:
    assert mutual.address.url.startswith("https://")
    assert server_address(mutual.settings) == mutual.address
    assert mutual.get(mutual.client).status_code == 200
    files = [path.read_bytes() for path in (mutual.authority.file, mutual.client.key, mutual.client.certificate)]
    with grpc.secure_channel(mutual.address.target, grpc.ssl_channel_credentials(*files)) as channel:
        answer = GRPCInferenceServiceStub(channel).ModelInfer(rating_request([7], [10]), timeout=60)
        assert scores_of(answer) == pytest.approx([3.1])


@pytest.mark.system
def test_http_2_and_1_are_offered_and_nothing_below_tls_1_2(mutual: Secured) -> None:
    for offered, taken in ((["h2", "http/1.1"], "h2"), (["http/1.1"], "http/1.1")):
        context = mutual.context(mutual.client)
        context.set_alpn_protocols(offered)
        with (
            socket.create_connection((mutual.address.host, mutual.address.port), timeout=60) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as connection,
        ):
            assert (connection.selected_alpn_protocol(), connection.version()) == (taken, "TLSv1.3")
    old = subprocess.run(
        ["openssl", "s_client", "-connect", mutual.address.target, "-tls1_1", "-cipher", "ALL@SECLEVEL=0"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert (old.returncode, "protocol version" in old.stderr) == (1, True), old.stderr


@pytest.mark.system
@pytest.mark.parametrize("whose", ["nobody's", "a stranger's", "an expired"])
def test_other_clients_are_turned_away(mutual: Secured, tmp_path: Path, whose: str) -> None:
    pairs = {
        "nobody's": None,
        "a stranger's": Authority(tmp_path, "stranger").pair("other"),
        "an expired": mutual.authority.pair("expired", days=0),
    }
    with pytest.raises(
        (httpx.ReadError, httpx.RemoteProtocolError, httpx.ConnectError, httpx.WriteError),
        match="alert|closed|disconnected|reset|Broken",
    ):
        mutual.get(pairs[whose])
    with pytest.raises(grpc.RpcError) as refused:
        mutual.grpc_live(pairs[whose])
    assert refused.value.code() == grpc.StatusCode.UNAVAILABLE
    assert mutual.get(mutual.client).status_code == 200


@pytest.mark.system
def test_a_client_that_trusts_others_does_not_talk_to_us(mutual: Secured, tmp_path: Path) -> None:
    stranger = Authority(tmp_path, "stranger")
    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        mutual.get(mutual.client, trusts=stranger)
    with pytest.raises(grpc.RpcError):
        mutual.grpc_live(mutual.client, trusts=stranger)


@pytest.mark.system
def test_the_port_speaks_nothing_in_the_clear(mutual: Secured) -> None:
    with pytest.raises(httpx.HTTPError):
        httpx.get(f"http://{mutual.address.target}/v2/health/live", timeout=60)
    with grpc.insecure_channel(mutual.address.target) as channel, pytest.raises(grpc.RpcError):
        GRPCInferenceServiceStub(channel).ServerLive(pb.ServerLiveRequest(), timeout=5)


@pytest.mark.system
def test_no_key_is_copied(mutual: Secured) -> None:
    written = [path.read_text() for path in mutual.settings.runtime.rglob("*.json")]
    assert any(str(mutual.server.key) in text for text in written)
    assert not any("PRIVATE KEY" in text or "BEGIN" in text for text in written)


@pytest.mark.system
def test_certificates_change_under_a_running_server(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "authority")
    server = authority.pair("server")
    security = {"tls_certificate": server.certificate, "tls_key": server.key}
    settings = prepared_home(tmp_path, security=security)
    with running(settings) as (_, address):
        live = Secured(settings, address, authority, server, server)
        first = live.serial()
        with httpx.Client(base_url=address.url, verify=live.context()) as kept:
            assert kept.get("/v2/health/live").status_code == 200
            for name, good in (("next", True), ("damaged", False), ("last", True)):
                before, renewed = live.serial(), authority.pair(name)
                if not good:
                    renewed.certificate.write_text("no certificate")
                renewed.key.replace(server.key)  # the key first, the certificate last
                renewed.certificate.replace(server.certificate)
                give_up = time.monotonic() + (60 if good else 0.3)
                while live.serial() == before and time.monotonic() < give_up:
                    time.sleep(0.02)
                assert (live.serial() != before) is good, name
            assert kept.get("/v2/health/live").status_code == 200
        assert live.serial() != first


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Files that fit, and files that do not."""
    folder = tmp_path_factory.mktemp("made")
    authority = Authority(folder, "authority")
    server, other = authority.pair("server"), authority.pair("other")
    (folder / "junk.pem").write_text("junk")
    (folder / "junk.pem").chmod(0o600)
    (folder / "open.key").write_bytes(server.key.read_bytes())
    (folder / "open.key").chmod(0o644)
    encrypted = [
        "openssl",
        "pkey",
        "-in",
        str(server.key),
        "-aes256",
        "-passout",
        "pass:x",
        "-out",
        str(folder / "locked.key"),
    ]
    subprocess.run(encrypted, check=True)
    (folder / "locked.key").chmod(0o600)
    return {
        "tls_certificate": server.certificate,
        "tls_key": server.key,
        "tls_client_ca": authority.file,
        "other": other.key,
        **{name: folder / name for name in ("junk.pem", "open.key", "locked.key", "gone.pem")},
    }


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"tls_certificate": "gone.pem"}, "tls_certificate .*gone.pem cannot be read: No such file"),
        ({"tls_key": "gone.pem"}, "tls_key .*gone.pem cannot be read: No such file"),
        ({"tls_client_ca": "gone.pem"}, "tls_client_ca .*gone.pem cannot be read: No such file"),
        ({"tls_certificate": "junk.pem"}, "must be PEM files"),
        ({"tls_key": "junk.pem"}, "must be PEM files"),
        ({"tls_client_ca": "junk.pem"}, "tls_client_ca .*junk.pem holds no PEM certificate"),
        ({"tls_key": "other"}, "tls_key .*other.key is not the key of the certificate .*server.pem"),
        ({"tls_key": "open.key"}, "tls_key .*open.key can be opened by other users"),
        ({"tls_key": "locked.key"}, "tls_key is encrypted"),
        ({"tls_key": None}, "security.tls_certificate is set, but TLS needs both"),
        ({"tls_certificate": None, "tls_key": None}, "security.tls_client_ca is set, but TLS needs both"),
    ],
)
def test_files_that_do_not_fit_are_refused_before_the_start(
    made: dict[str, Path], tmp_path: Path, changes: dict[str, str | None], fault: str
) -> None:
    names = {name: name for name in ("tls_certificate", "tls_key", "tls_client_ca")} | changes
    security = {name: made[choice] for name, choice in names.items() if choice}
    with pytest.raises(ConfigurationError, match=fault):
        secured(load_settings(home=tmp_path, security=security))


@pytest.mark.system
def test_the_command_takes_them_as_flags_and_complains_in_one_line(made: dict[str, Path], tmp_path: Path) -> None:
    settings = prepared_home(tmp_path)
    flags = ["--tls-certificate", str(made["tls_certificate"]), "--tls-key", str(made["other"]), "--port", "0"]
    command = [sys.executable, "-m", "driftwheel", "--home", str(settings.home), "serve", *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, "is not the key of the certificate" in done.stderr) == (2, True), done.stderr
    assert "Traceback" not in done.stderr


def test_what_is_open_to_the_network_is_said_aloud(
    made: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def warned(host: str, **security: Path) -> int:
        capsys.readouterr()
        secured(load_settings(home=tmp_path, serving={"host": host}, security=security))
        return "".join(capsys.readouterr()).count("server.exposed")

    tls = {name: made[name] for name in ("tls_certificate", "tls_key")}
    assert [warned("127.0.0.1"), warned("::1"), warned("localhost")] == [0, 0, 0]
    assert [warned("0.0.0.0"), warned("::"), warned("10.0.0.1", **tls)] == [2, 2, 1]  # noqa: S104
    assert warned("0.0.0.0", **tls, tls_client_ca=made["tls_client_ca"]) == 0  # noqa: S104
