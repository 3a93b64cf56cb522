"""What one client may ask of the server: rate, size, time, connections, and the name it calls it by."""

import contextlib
import socket
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import httpx
import pytest

from driftwheel.settings import load_settings
from serving._proto import open_inference_pb2 as pb
from serving._proto.open_inference_pb2_grpc import GRPCInferenceServiceStub
from serving.envoy import bootstrap
from serving.front_door import running
from serving.worker import AdminConnection
from tests.serving.conftest import Live, connected, prepared_home, rating_request

pytestmark = pytest.mark.system

BURST = 5


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Generator[Live]:
    """A server that answers each address so many requests at once, and then next to none."""
    security = {"requests_per_second": 0.001, "request_burst": BURST}
    settings = prepared_home(tmp_path_factory.mktemp("limited"), security=security)
    with running(settings) as (door, address), connected(settings, door, address) as live:
        yield live


def client_from(address: str, live: Live) -> httpx.Client:
    """A client with an address of its own: all of 127.0.0.0/8 is this machine."""
    return httpx.Client(base_url=live.address.url, transport=httpx.HTTPTransport(local_address=address))


def test_http_past_the_rate_is_told_when_to_come_back(limited: Live) -> None:
    with client_from("127.0.0.2", limited) as client:
        answers = [client.get("/v2") for _ in range(BURST + 2)]
        assert [answer.status_code for answer in answers] == [200] * BURST + [429] * 2
        refused = answers[-1]
        assert (refused.headers["retry-after"], refused.headers["content-type"]) == ("1", "application/json")
        assert "too many requests from this address" in refused.json()["error"]
        assert [client.get(f"/v2/health/{what}").status_code for what in ("live", "ready")] == [200, 200]


def test_grpc_past_the_rate_is_exhausted_with_pushback(limited: Live) -> None:
    """The channel is at 127.0.0.1, which no other test here uses up."""
    for _ in range(BURST):
        limited.stub.ModelInfer(rating_request([7], [10]), timeout=60)
    with pytest.raises(grpc.RpcError) as refused:
        limited.stub.ModelInfer(rating_request([7], [10]), timeout=60)
    assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "too many requests from this address" in refused.value.details()
    assert ("grpc-retry-pushback-ms", "1000") in list(refused.value.trailing_metadata())
    assert limited.stub.ServerLive(pb.ServerLiveRequest(), timeout=60).live


def test_each_address_has_a_rate_of_its_own_and_cannot_make_one_up(limited: Live) -> None:
    with client_from("127.0.0.3", limited) as greedy, client_from("127.0.0.4", limited) as other:
        assert [greedy.get("/v2").status_code for _ in range(BURST + 1)][-1] == 429
        made_up = [greedy.get("/v2", headers={"x-forwarded-for": f"10.0.0.{i}"}).status_code for i in range(3)]
        assert made_up == [429] * 3
        assert other.get("/v2").status_code == 200


def test_what_is_not_asked_for_costs_no_filter(tmp_path: Path) -> None:
    def filters(host: str = "127.0.0.1", **security: object) -> list[str]:
        config = bootstrap(load_settings(home=tmp_path, serving={"host": host}, security=security), tmp_path / "admin")
        (chain,) = config["static_resources"]["listeners"][0]["filter_chains"]
        http = chain["filters"][-1]["typed_config"]["http_filters"]
        return [one["name"].split(".")[-1] for one in http if not one.get("disabled")]

    assert filters() == ["pyvoy"]
    assert filters(requests_per_second=10) == ["local_ratelimit", "pyvoy"]
    tls = {"tls_certificate": "server.pem", "tls_key": "server.key"}
    assert filters(**tls) == ["pyvoy"]
    assert filters("10.0.0.1", **tls) == ["header_mutation", "pyvoy"]  # strict-transport-security, never for localhost


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:80", "127.0.0.1:9", "[::1]:8080", "a.localhost"])
def test_a_loopback_server_answers_to_loopback_names(live: Live, host: str) -> None:
    assert live.http.get("/v2/health/live", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8080", "localhost.evil.example", "127.0.0.1.evil.example"]
)
def test_a_name_that_only_points_here_is_refused(live: Live, host: str) -> None:
    answer = live.http.post("/v1/recommend", headers={"host": host}, json={"user_id": 7})
    assert (answer.status_code, "security.allowed_hosts" in answer.json()["error"]) == (403, True)
    with grpc.insecure_channel(live.address.target, [("grpc.default_authority", host)]) as channel:
        with pytest.raises(grpc.RpcError) as refused:
            GRPCInferenceServiceStub(channel).ModelInfer(rating_request([7], [10]), timeout=60)
        assert refused.value.code() == grpc.StatusCode.PERMISSION_DENIED


@pytest.fixture(scope="module")
def tight(tmp_path_factory: pytest.TempPathFactory) -> Generator[Live]:
    """A server with little patience and few places."""
    security = {
        "request_timeout_s": 2.0,
        "idle_timeout_s": 2.0,
        "max_connections": 8,
        "max_header_kib": 8,
        "allowed_hosts": ["models.example.org", "localhost", "127.0.0.1"],
    }
    settings = prepared_home(tmp_path_factory.mktemp("tight"), security=security)
    with running(settings) as (door, address), connected(settings, door, address) as live:
        yield live


def test_names_can_be_set(tight: Live) -> None:
    hosts = ("models.example.org", "127.0.0.1", "[::1]", "other.example.org")
    assert [tight.http.get("/v2", headers={"host": host}).status_code for host in hosts] == [200, 200, 403, 403]


def test_who_sends_drop_by_drop_is_cut_off(tight: Live) -> None:
    """Headers, a body, and chunks; all at once, since each takes as long as it may."""
    churn = b"POST /v1/churn HTTP/1.1\r\nhost: localhost\r\n"
    slow = [
        (b"GET /v2 HTTP/1.1\r\nhost: localhost\r\n", b"x"),
        (churn + b"content-length: 100000\r\n\r\n", b" "),
        (churn + b"transfer-encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
    ]
    with ThreadPoolExecutor(len(slow)) as pool:
        for answer in pool.map(lambda one: sent_in_drops(tight, *one), slow):
            assert answer.startswith(b"HTTP/1.1 408 ")


def sent_in_drops(live: Live, start: bytes, drop: bytes) -> bytes:
    """What is answered to a request that does not end."""
    with socket.create_connection((live.address.host, live.address.port), timeout=0.02) as connection:
        connection.sendall(start)
        give_up = time.monotonic() + 60
        while time.monotonic() < give_up:
            connection.sendall(drop)
            with contextlib.suppress(TimeoutError):
                return connection.recv(1000)
    return b"nothing"


def turned_away(live: Live) -> int:
    """How many connections were closed at once."""
    admin = AdminConnection(live.settings.runtime / "door" / "admin-0")
    with contextlib.closing(admin):
        admin.request("GET", "/stats?filter=downstream_global_cx_overflow")
        return sum(int(line.split()[-1]) for line in admin.getresponse().read().splitlines())


def test_connections_are_bounded_and_silent_ones_make_room(tight: Live) -> None:
    place = (tight.address.host, tight.address.port)
    with contextlib.ExitStack() as kept:
        for connection in [kept.enter_context(socket.create_connection(place, timeout=60)) for _ in range(20)]:
            with contextlib.suppress(ConnectionResetError):
                assert connection.recv(1) == b""  # turned away, or closed as idle
    assert turned_away(tight) >= 20 - 8
    give_up = time.monotonic() + 60
    while not answers(tight):
        assert time.monotonic() < give_up
        time.sleep(0.05)


def answers(live: Live) -> bool:
    """Whether a new connection is taken."""
    try:
        return httpx.get(f"{live.address.url}/v2/health/live", timeout=60).status_code == 200
    except httpx.HTTPError:
        return False


def test_headers_are_bounded(tight: Live) -> None:
    with httpx.Client(base_url=tight.address.url) as client:
        assert client.get("/v2", headers={"x-long": "x" * 9000}).status_code == 431
        assert client.get("/v2", headers={f"x-{i}": "x" for i in range(120)}).status_code == 431
        assert client.get("/v2/health/live").status_code == 200


def resident_mib(live: Live) -> float:
    page = live.http.get("/metrics").text
    (line,) = [line for line in page.splitlines() if line.startswith("process_resident_memory_bytes")]
    return float(line.split()[-1]) / 2**20


def gibibyte() -> Generator[bytes]:
    chunk = b" " * 2**20
    for _ in range(1024):
        yield chunk


@pytest.mark.parametrize("headers", [{"content-length": str(2**30)}, {}], ids=["declared", "chunked"])
def test_an_upload_of_a_gibibyte_is_refused_and_not_held(live: Live, headers: dict[str, str]) -> None:
    before = resident_mib(live)
    for _ in range(2):
        try:
            answer = httpx.post(f"{live.address.url}/v1/churn", content=gibibyte(), headers=headers, timeout=30)
            assert (answer.status_code, "bytes" in answer.json()["error"]) == (413, True)
        except (httpx.WriteError, httpx.ReadError):
            pass  # the server closes the connection, which may reach a client that still writes before the answer does
    assert resident_mib(live) - before < 40


def test_a_grpc_message_over_the_limit_is_refused_and_not_held(live: Live) -> None:
    before = resident_mib(live)
    request = rating_request([7], [10])
    request.raw_input_contents.append(bytes(64 * 2**20))
    with pytest.raises(grpc.RpcError) as refused:
        live.stub.ModelInfer(request, timeout=30)
    assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert resident_mib(live) - before < 40
    assert live.stub.ServerLive(pb.ServerLiveRequest(), timeout=60).live


def test_answers_tell_nothing_of_versions(live: Live) -> None:
    answer = live.http.get("/v2/health/live")
    assert answer.headers["server"] == "driftwheel"
    assert not {"x-powered-by", "x-envoy-upstream-service-time", "via"} & set(answer.headers)
    assert (answer.headers["x-content-type-options"], answer.headers["cache-control"]) == ("nosniff", "no-store")


def test_pages_can_neither_be_framed_nor_run_scripts(live: Live) -> None:
    page = live.http.get("/docs")
    policy = page.headers["content-security-policy"].split("; ")
    assert {"default-src 'none'", "frame-ancestors 'none'", "base-uri 'none'"} <= set(policy)
    assert not any("script" in rule or "unsafe" in rule for rule in policy)
    assert page.headers["referrer-policy"] == "no-referrer"


def start_upload(live: Live, connection: socket.socket, size: int) -> bool:
    """Send so much of a request and keep the rest; whether the server has refused it."""
    start = b"POST /v1/churn HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n" % (size + 1)
    connection.connect((live.address.host, live.address.port))
    try:
        connection.sendall(start + bytes(size))
        connection.settimeout(0.1)
        return connection.recv(1000).startswith(b"HTTP/1.1 429 ")
    except TimeoutError:
        return False
    except (ConnectionResetError, BrokenPipeError):  # refused, and closed while we still sent
        return True


def test_requests_that_never_finish_hold_no_more_than_they_may(tmp_path: Path) -> None:
    size = 8 * 2**20
    settings = prepared_home(tmp_path, security={"max_unfinished_bytes": 4 * size})
    with running(settings) as (door, address), connected(settings, door, address) as live:
        before = resident_mib(live)
        with contextlib.ExitStack() as kept:
            connections = [kept.enter_context(socket.socket()) for _ in range(24)]
            refused = [start_upload(live, connection, size) for connection in connections]
            assert (any(refused[:4]), all(refused[8:])) == (False, True)
            assert resident_mib(live) - before < 100
            assert live.stub.ModelInfer(rating_request([7], [10]), timeout=60).model_version == "1"
        give_up = time.monotonic() + 60  # what those held is given back
        while time.monotonic() < give_up:
            with socket.socket() as again:
                if not start_upload(live, again, size):
                    again.sendall(b" ")
                    assert again.recv(1000).startswith(b"HTTP/1.1 400 ")
                    return
        raise AssertionError("still refused")
