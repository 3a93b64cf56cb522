"""TorchServe as ``driftwheel torchserve up`` runs it: closed in fact, replaced without a failed call, gone when it is stopped."""

import os
import signal
import socket
import struct
import threading
import time
import zipfile
from collections.abc import Callable, Generator
from pathlib import Path

import grpc
import httpx
import numpy as np
import pytest

from driftwheel.bundle import Bundle
from driftwheel.errors import BusyError, ConfigurationError, DriftwheelError
from driftwheel.files import exclusive_lock
from driftwheel.settings import Settings, load_settings
from driftwheel.wheel.torchserve import archived_version
from serving._proto import torchserve_inference_pb2 as pb
from serving._proto.torchserve_inference_pb2_grpc import InferenceAPIsServiceStub
from serving.backends.torchserve import TorchServeBackend
from serving.backends.torchserve_link import TorchServeLink, located_in
from serving.torchserve import address as addresses
from serving.torchserve import lifecycle
from serving.torchserve.address import TorchServeAddress, inference_token, management_token
from serving.torchserve.configuration import ArchivedVersion
from serving.torchserve.instance import instances, prepare
from serving.torchserve.ports import chosen_ports
from serving.torchserve.status import status
from tests.bundles import make_churn_bundle, make_rating_bundle
from tests.serving.torchserve.in_worker import raw, scores
from tests.serving.torchserve.running import needs_java

pytestmark = [pytest.mark.system, needs_java]

ELSEWHERE = "http://127.0.0.1:9/model.mar"
HOSTILE = {
    "AWS_SECRET_ACCESS_KEY": "a-secret-of-ours",
    "TS_CONFIG_FILE": "/nowhere",
    "TS_DISABLE_TOKEN_AUTHORIZATION": "true",
    "TS_ALLOWED_URLS": ".*",
    "TS_ENABLE_MODEL_API": "true",
}


class Home:
    """A home, and what its TorchServe is to serve."""

    def __init__(self, folder: Path) -> None:
        self.settings: Settings = load_settings(home=folder)
        self.bundles: dict[tuple[str, int], Bundle] = {}
        for bundle in (
            make_rating_bundle(self.settings.models, 1),
            make_rating_bundle(self.settings.models, 2, shift=0.25),
            make_churn_bundle(self.settings.models, 1),
        ):
            self.bundles[bundle.name, bundle.version] = bundle

    def archived(self, name: str, version: int) -> ArchivedVersion:
        return archived_version(self.settings.models, name, version)

    def up(self, *versions: tuple[str, int], **sections: object) -> lifecycle.Change:
        settings = load_settings(home=self.settings.home, **sections)
        return lifecycle.up(settings, [self.archived(*one) for one in versions], lambda _ready, _of: None)

    @property
    def address(self) -> TorchServeAddress:
        found = addresses.read(self.settings.torchserve_folder)
        assert found is not None
        return found

    @property
    def run(self) -> Path:
        return Path(self.address.key_file or "").parent

    def manage(self, method: str, path: str, key: str | None = "management") -> httpx.Response:
        return self.call(method, self.address.management + path, key)

    def call(self, method: str, url: str, key: str | None) -> httpx.Response:
        tokens = {"management": management_token, "inference": inference_token}
        token = tokens[key](self.address) if key in tokens else key
        headers = {"authorization": f"Bearer {token}"} if token else {}
        return httpx.request(method, url, headers=headers, timeout=30)


BOTH = (("mf", 1), ("churn", 1))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Generator[Home]:
    made = Home(tmp_path_factory.mktemp("home"))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in HOSTILE.items():
            patch.setenv(name, value)
        yield made
    lifecycle.down(made.settings)


@pytest.fixture
def started(home: Home) -> Home:
    """With one version of each model; whichever test comes first starts it."""
    home.up(*BOTH)
    return home


@pytest.fixture
def keys(started: Home) -> list[str]:
    return [management_token(started.address) or "", inference_token(started.address) or ""]


def wait_for(happened: Callable[[], object], timeout_s: float = 20.0) -> None:
    give_up = time.monotonic() + timeout_s
    while not happened():
        assert time.monotonic() < give_up
        time.sleep(0.05)


def family(pid: int) -> list[int]:
    """The living processes of a session."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if fields[3] == str(pid) and fields[0] != "Z":
                found.append(int(entry.name))
    return sorted(found)


def test_its_keys_and_folders_are_its_owners_alone(started: Home) -> None:
    assert Path(started.address.key_file or "").stat().st_mode & 0o777 == 0o600
    assert started.run.stat().st_mode & 0o777 == 0o700
    assert started.settings.torchserve_folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("token", [None, "wrong", "management"])
def test_no_prediction_without_the_key(started: Home, token: str | None) -> None:
    for path in ("/ping", "/predictions/mf/1", "/models"):
        assert "InvalidKeyException" in started.call("GET", started.address.http + path, token).text
    metadata = [] if token is None else [("authorization", f"Bearer {token}")]
    with grpc.insecure_channel(started.address.grpc) as channel, pytest.raises(grpc.RpcError) as caught:
        request = pb.PredictionsRequest(model_name="mf", input={"user_id": raw(7), "item_id": raw(10)})
        InferenceAPIsServiceStub(channel).Predictions(request, timeout=10, metadata=metadata)
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED


@pytest.mark.parametrize("token", [None, "wrong", "inference"])
def test_no_management_without_the_key(started: Home, token: str | None) -> None:
    calls = ("GET", "/models"), ("POST", f"/models?url={ELSEWHERE}"), ("PUT", "/models/mf/1?min_worker=0")
    for method, path in (*calls, ("DELETE", "/models/mf/1"), ("POST", f"/workflows?url={ELSEWHERE}")):
        assert "InvalidKeyException" in started.manage(method, path, token).text, path


def test_nothing_is_registered_even_with_the_key(started: Home) -> None:
    for url in (ELSEWHERE, "file:///etc/passwd", "mf-1.mar", "../store/mf-1.mar"):
        assert started.manage("POST", f"/models?url={url}").status_code == 405
    assert started.manage("DELETE", "/models/mf/1").status_code == 405
    assert [one["modelName"] for one in started.manage("GET", "/models").json()["models"]] == ["churn", "mf"]


def test_nothing_is_registered_over_grpc(started: Home) -> None:
    target = started_grpc_management(started)
    token = [("authorization", f"Bearer {management_token(started.address)}")]
    with grpc.insecure_channel(target) as channel:
        for name in ("RegisterModel", "UnregisterModel"):
            method = channel.unary_unary(f"/org.pytorch.serve.grpc.management.ManagementAPIsService/{name}")
            with pytest.raises(grpc.RpcError, match="Model API disabled"):
                method(b"", timeout=10, metadata=token)
            with pytest.raises(grpc.RpcError, match="Token Authorization failed"):
                method(b"", timeout=10)


def started_grpc_management(home: Home) -> str:
    lines = (home.run / "config.properties").read_text().splitlines()
    properties = dict(line.split("=", 1) for line in lines)
    return f"127.0.0.1:{properties['grpc_management_port']}"


@pytest.mark.parametrize("url", [ELSEWHERE, "https://example.com/x.war", "file:///etc/passwd"])
def test_workflows_bring_no_code_either(started: Home, url: str) -> None:
    answer = started.manage("POST", f"/workflows?url={url}")
    assert (answer.status_code, "does not match any allowed URL" in answer.text) == (404, True)


def test_it_listens_on_loopback_alone(started: Home) -> None:
    inodes = set()
    for file in Path(f"/proc/{started.address.pid}/fd").iterdir():
        if (target := str(file.readlink())).startswith("socket:["):
            inodes.add(target[8:-1])
    listening = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{started.address.pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                listening.append(fields[1].rpartition(":")[0])
    loopback = struct.unpack("=I", socket.inet_aton("127.0.0.1"))[0]
    assert len(listening) == 5
    assert {one[-8:] for one in listening} == {f"{loopback:08X}"}


def test_workers_see_no_secrets_and_nothing_overrides_its_settings(started: Home) -> None:
    members = family(started.address.pid)
    assert len(members) == 3
    for pid in members:
        seen = Path(f"/proc/{pid}/environ").read_bytes()
        assert b"a-secret-of-ours" not in seen
        assert b"TS_CONFIG_FILE" not in seen


def test_keys_are_on_no_command_line_and_in_no_log(started: Home, keys: list[str]) -> None:
    for pid in family(started.address.pid):
        line = Path(f"/proc/{pid}/cmdline").read_bytes().decode()
        assert not any(key in line for key in keys)
    for file in started.run.rglob("*"):
        if file.is_file() and file.name != "key_file.json":
            assert not any(key.encode() in file.read_bytes() for key in keys), file


def test_calls_leave_metrics_and_no_lines(started: Home) -> None:
    log = started.run / "torchserve.log"
    before = log.read_text()
    token = [("authorization", f"Bearer {inference_token(started.address)}")]
    with grpc.insecure_channel(started.address.grpc) as channel:
        stub = InferenceAPIsServiceStub(channel)
        for _ in range(20):
            request = pb.PredictionsRequest(
                model_name="mf", model_version="1", input={"user_id": raw(7, 15), "item_id": raw(10, 20)}
            )
            answer = stub.Predictions(request, timeout=10, metadata=token).prediction
    assert scores(answer) == pytest.approx([3.1, 3.7])
    page = httpx.get(f"{started.address.metrics}/metrics").text
    (line,) = [
        one
        for one in page.splitlines()
        if one.startswith('ts_inference_requests_total{model_name="mf",model_version="1"')
    ]
    assert float(line.rpartition(" ")[2]) >= 20
    assert log.read_text() == before
    wait_for(lambda: 'DriftwheelRows{ModelName="mf"' in httpx.get(f"{started.address.metrics}/metrics").text)


def test_status_tells_of_each_version(started: Home) -> None:
    found = status(started.settings)
    assert found is not None
    assert found.healthy
    assert [(one.model, one.version, one.workers_ready, one.queued, one.queue_size) for one in found.versions] == [
        ("mf", "1", 1, 0, 1000),
        ("churn", "1", 1, 0, 1000),
    ]
    assert {pid for one in found.versions for pid in one.pids} < set(family(found.pid))


def test_without_a_change_nothing_happens(started: Home) -> None:
    before = started.address
    assert started.up(*BOTH) == "unchanged"
    assert started.address == before


def test_one_starts_it_at_a_time(started: Home) -> None:
    with (
        exclusive_lock(started.settings.torchserve_folder / "lock", purpose="a test"),
        pytest.raises(BusyError, match="starting or stopping TorchServe is already going on"),
    ):
        started.up(*BOTH)


def test_in_the_foreground_a_second_one_is_refused(started: Home) -> None:
    with pytest.raises(ConfigurationError, match="TorchServe runs already, as process"):
        lifecycle.up(started.settings, [], lambda _ready, _of: None, foreground=True)


def test_a_change_takes_over_and_no_call_fails(started: Home) -> None:
    before = started.address
    bundle = started.bundles["mf", 1]
    link = TorchServeLink(located_in(started.settings.torchserve_folder))
    backend = TorchServeBackend(link, name="mf", version=1, signature=bundle.manifest.signature, timeout_s=10)
    feed = {"user_index": np.array([1, 2]), "item_index": np.array([1, 2])}
    done, answered, failed = threading.Event(), [], []

    def call() -> None:
        while not done.is_set():
            try:
                answered.append(backend.run(feed)["score"].tolist())
            except DriftwheelError as error:
                failed.append(error)

    callers = [threading.Thread(target=call) for _ in range(4)]
    for one in callers:
        one.start()
    try:
        # The new version is listed first: it answers calls that name none.
        assert started.up(("mf", 2), ("mf", 1)) == "replaced"
        time.sleep(0.5)
    finally:
        done.set()
        for one in callers:
            one.join()
        backend.close()
    assert failed == []
    assert len(answered) > 100
    assert all(one == pytest.approx([3.1, 3.7]) for one in answered)
    assert family(before.pid) == []
    assert started.address.models == {"mf": ["2", "1"]}
    assert [one.folder for one in instances(started.settings.torchserve_folder / "runs")] == [started.run]
    (default,) = started.manage("GET", "/models/mf").json()
    assert default["modelVersion"] == "2"


def torn(archive: Path, target: Path) -> None:
    """What unpacking refuses."""
    content = bytearray(archive.read_bytes())
    content[content.index(b"model.onnx") + 20] ^= 0xFF
    target.write_bytes(content)


def altered(archive: Path, target: Path) -> None:
    """What our handler refuses."""
    with zipfile.ZipFile(archive) as source, zipfile.ZipFile(target, "w") as made:
        for name in source.namelist():
            made.writestr(name, source.read(name) + (b" " if name == "model.onnx" else b""))


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (torn, "TorchServe refuses .*churn-1.mar"),
        (altered, "TorchServe cannot load churn version 1: .*model.onnx is damaged"),
    ],
)
def test_what_cannot_be_loaded_is_told_and_what_ran_goes_on(
    started: Home, tmp_path: Path, damage: Callable[[Path, Path], None], says: str
) -> None:
    before = started.address
    good = started.archived("mf", 1)
    damaged = tmp_path / "churn-1.mar"
    damage(started.archived("churn", 1).archive, damaged)
    with pytest.raises(DriftwheelError, match=says):
        lifecycle.up(
            started.settings, [good, ArchivedVersion("churn", 1, damaged, "damaged")], lambda _ready, _of: None
        )
    assert started.address == before
    found = status(started.settings)
    assert found is not None
    assert found.healthy
    running = [one for one in instances(started.settings.torchserve_folder / "runs") if one.runs]
    assert [one.folder for one in running] == [started.run]


def test_what_a_killed_command_left_is_stopped(started: Home) -> None:
    settings = started.settings
    plan = lifecycle.plan_for(settings.torchserve, [started.archived("mf", 1)])
    stray = prepare(settings.torchserve_folder / "runs", plan, chosen_ports(settings.torchserve))
    stray.start(plan, os.environ, tie=False)
    assert stray.runs
    assert started.up(*BOTH) == "unchanged"
    assert not stray.runs


def test_after_a_crash_it_is_down_and_can_be_started_again(started: Home) -> None:
    pid = started.address.pid
    workers = family(pid)[1:]
    for one in workers:
        os.kill(one, signal.SIGSTOP)  # they cannot see that the frontend is gone, and stay
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: status(started.settings) is None)
    with pytest.raises(DriftwheelError, match="TorchServe ended by itself"):
        lifecycle.stay(started.settings)
    assert started.up(("mf", 1)) == "started"
    assert family(pid) == []
    found = status(started.settings)
    assert found is not None
    assert found.healthy


def test_a_home_with_a_long_name_has_its_sockets_elsewhere(started: Home, tmp_path: Path) -> None:
    settings = load_settings(home=tmp_path / ("long-" * 20))
    assert lifecycle.up(settings, [started.archived("mf", 1)], lambda _ready, _of: None) == "started"
    address = addresses.read(settings.torchserve_folder)
    assert address is not None
    elsewhere = (Path(address.key_file or "").parent / "tmp").resolve()
    assert elsewhere.name.startswith("driftwheel-torchserve-")
    assert len(family(address.pid)) == 2
    assert lifecycle.down(settings)
    assert not elsewhere.exists()
    assert family(address.pid) == []


def test_down_leaves_nothing_but_logs(home: Home) -> None:
    home.up(("mf", 1))
    pid, run = home.address.pid, home.run
    assert lifecycle.down(home.settings)
    assert family(pid) == []
    assert not (home.settings.torchserve_folder / "address.json").exists()
    assert not (run / "key_file.json").exists()
    assert not (run / "tmp").exists()
    assert (run / "torchserve.log").exists()
    assert not lifecycle.down(home.settings)
    assert status(home.settings) is None
