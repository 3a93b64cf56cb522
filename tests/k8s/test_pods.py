"""The manifests' containers, run as they stand: ready once warm, drained without a failed call, and nothing written outside."""

import shutil
import threading
import time
from collections import Counter
from pathlib import Path

import httpx
import pytest

from driftwheel.settings import Settings
from driftwheel.wheel.fleet import publish
from driftwheel.wheel.fleet_store import Store
from serving.tokens import Role, add_token
from tests.k8s.manifests import Object, named, of_kind, pod_templates
from tests.k8s.pods import Pod, require_jail
from tests.serving.certificates import Authority
from tests.serving.conftest import prepared_home
from tests.training.tuning.servers import free_port

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(180)]


@pytest.fixture(autouse=True)
def jail() -> None:
    require_jail()


def template_of(target: str, owner: str) -> Object:
    return dict(pod_templates(target))[owner]


def volumes_of(folder: Path, target: str, template: Object) -> dict[str, Path]:
    """A folder for each volume of a pod; what a ConfigMap holds lies in it as the kubelet lays it out, behind links."""
    folders = dict[str, Path]()
    for volume in template["spec"]["volumes"]:
        path = folders[volume["name"]] = folder / volume["name"]
        path.mkdir(parents=True, exist_ok=True)
        if "configMap" in volume:
            (path / "..data").mkdir()
            for key, content in named(target, "ConfigMap", volume["configMap"]["name"])["data"].items():
                (path / "..data" / key).write_text(content)
                (path / key).symlink_to(f"..data/{key}")
    return folders


def serving_pod(
    folder: Path, owner: str = "Deployment driftwheel", target: str = "overlays/dev"
) -> tuple[Pod, Settings]:
    """A server of the base over a home of its own."""
    template = template_of(target, owner)
    volumes = volumes_of(folder, target, template)
    settings = prepared_home(volumes["home"])
    return Pod(template, "serving", volumes, port=free_port()), settings


def test_it_is_ready_once_its_models_answer_and_not_before(tmp_path: Path) -> None:
    pod, _ = serving_pod(tmp_path)
    with pod:
        assert not pod.probe("readiness")
        pod.wait_until_ready()
        assert pod.passes("startup")
        assert pod.passes("liveness")
        url = f"http://127.0.0.1:{pod.port}"
        page = httpx.get(f"{url}/metrics").text
        assert 'driftwheel_model_version_loaded{arm="stable",model="mf",version="1"} 1.0' in page
        answer = httpx.post(f"{url}/v1/recommend", json={"user_id": 15, "k": 1})
        assert answer.json()["items"][0]["item_id"] == 40
        pod.terminate()
        errors = pod.ended_within(pod.grace_s)
    assert '"event": "server.stopped"' in errors
    assert "Read-only file system" not in errors


def test_a_model_that_cannot_be_loaded_keeps_it_alive_and_out_of_service(tmp_path: Path) -> None:
    template = template_of("overlays/dev", "Deployment driftwheel")
    volumes = volumes_of(tmp_path, "overlays/dev", template)
    settings = prepared_home(volumes["home"])
    (settings.models / "mf/1/model.onnx").write_bytes(b"half of i")
    with Pod(template, "serving", volumes, port=free_port()) as pod:
        give_up = time.monotonic() + 60
        while not pod.probe("liveness"):
            assert time.monotonic() < give_up
            time.sleep(0.02)
        time.sleep(2 * pod.container["readinessProbe"]["periodSeconds"])
        assert pod.passes("liveness")
        assert not pod.probe("readiness")


class Endpoints:
    """The pods that callers reach: as the readiness probe has it, until a pod is being deleted."""

    def __init__(self, *pods: Pod) -> None:
        self.pods = list(pods)
        self.answers = Counter[tuple[int, int]]()
        self.faults = list[str]()
        self.over = threading.Event()

    def call_until_over(self) -> None:
        """Round and round, on connections that stay open."""
        with httpx.Client(timeout=60) as client:
            turn = 0
            while not self.over.is_set():
                pods, turn = list(self.pods), turn + 1
                pod = pods[turn % len(pods)]
                try:
                    answer = client.post(f"http://127.0.0.1:{pod.port}/v1/recommend", json={"user_id": 15, "k": 1})
                    self.answers[pod.port, answer.status_code] += 1
                except httpx.TransportError as error:
                    self.faults.append(f"{pod.port}: {error!r}")


def test_a_pod_that_is_deleted_under_load_fails_no_call(tmp_path: Path) -> None:
    (first, _), (second, _) = serving_pod(tmp_path / "a"), serving_pod(tmp_path / "b")
    with first, second:
        first.wait_until_ready()
        second.wait_until_ready()
        endpoints = Endpoints(first, second)
        callers = [threading.Thread(target=endpoints.call_until_over) for _ in range(4)]
        for caller in callers:
            caller.start()
        give_up = time.monotonic() + 60
        while min(endpoints.answers[pod.port, 200] for pod in (first, second)) <= 50:
            assert time.monotonic() < give_up
            time.sleep(0.02)
        deleted = time.monotonic()
        # Endpoints are told of a deletion while preStop waits: they forget the pod late, but before its process hears of it.
        time.sleep(0.8 * first.pause_before_end_s())
        endpoints.pods.remove(first)
        slow = threading.Thread(target=slow_call, args=(first.port, endpoints))
        slow.start()
        time.sleep(max(0.0, first.pause_before_end_s() - (time.monotonic() - deleted)))
        first.terminate()
        errors = first.ended_within(first.grace_s - first.pause_before_end_s())
        slow.join()
        time.sleep(0.5)
        endpoints.over.set()
        for caller in callers:
            caller.join()
    assert endpoints.faults == []
    assert {status for _, status in endpoints.answers} == {200}
    assert min(endpoints.answers[first.port, 200], endpoints.answers[second.port, 200]) > 50
    assert "drain_cut_short" not in errors


def slow_call(port: int, endpoints: Endpoints) -> None:
    """A call that is under way when the signal comes: its body takes two seconds to arrive."""

    def body() -> "object":
        yield b'{"user_id": 15, '
        time.sleep(2)
        yield b'"k": 1}'

    try:
        answer = httpx.post(
            f"http://127.0.0.1:{port}/v1/recommend",
            content=body(),
            headers={"content-type": "application/json"},
            timeout=60,
        )
        endpoints.answers[port, answer.status_code] += 1
    except httpx.TransportError as error:
        endpoints.faults.append(f"slow call: {error!r}")


def test_an_init_container_fetches_what_the_server_beside_it_serves(tmp_path: Path) -> None:
    target = "overlays/torchserve"
    template = template_of(target, "Deployment driftwheel")
    home = prepared_home(tmp_path / "publisher")
    volumes = volumes_of(tmp_path / "pod", target, template)
    store = volumes["home"] / "store"  # a folder stands for the bucket; tests/driftwheel/wheel/test_fleet.py has S3
    publish(home, Store(str(store)))
    secrets = {"STORE_URL": "/home/driftwheel/store"}
    with Pod(template, "fetch", volumes, port=free_port(), secrets=secrets) as fetch:
        fetch.ended_within(60)
    assert (volumes["home"] / "models/mf/1/bundle.json").exists()
    with Pod(template, "follow", volumes, port=free_port(), secrets=secrets) as follow:
        give_up = time.monotonic() + 60
        while not (volumes["home"] / "run/fleet.json").exists():
            assert time.monotonic() < give_up
            time.sleep(0.05)
        assert follow.passes("liveness")
        follow.terminate()
        follow.ended_within(30)


def test_kserve_serves_bundles_that_it_may_only_read(tmp_path: Path) -> None:
    target = "overlays/kserve"
    template = template_of(target, "ServingRuntime driftwheel")
    volumes = volumes_of(tmp_path, target, template)
    home = prepared_home(tmp_path / "publisher")
    publish(home, Store(str(tmp_path / "store")))
    volumes["models"] = tmp_path / "store" / "models"
    # What KServe's storage initializer adds to the pod.
    container = of_kind(target, "ServingRuntime")[0]["spec"]["containers"][0]
    mounted = {
        **container,
        "volumeMounts": [*container["volumeMounts"], {"name": "models", "mountPath": "/mnt/models", "readOnly": True}],
    }
    spec = {**template["spec"], "containers": [mounted]}
    token = add_token(volumes["tokens"] / "tokens.toml", "shop", frozenset({Role.INFER}))
    with Pod({"spec": spec}, "kserve-container", volumes, port=free_port()) as pod:
        pod.wait_until_ready()
        url = f"http://127.0.0.1:{pod.port}/v1/recommend"
        assert httpx.post(url, json={"user_id": 15, "k": 1}).status_code == 401
        answer = httpx.post(url, json={"user_id": 15, "k": 1}, headers={"authorization": f"Bearer {token}"})
        assert answer.json()["items"][0]["item_id"] == 40
        pod.terminate()
        assert "Read-only file system" not in pod.ended_within(pod.grace_s)


def test_a_torchserve_beside_the_server_runs_its_models(tmp_path: Path) -> None:
    if shutil.which("java") is None:
        pytest.skip("needs Debian's openjdk-17-jre-headless")
    target = "overlays/torchserve"
    template = template_of(target, "Deployment driftwheel")
    volumes = volumes_of(tmp_path / "pod", target, template)
    prepared_home(volumes["home"])
    pair = Authority(tmp_path, "authority").pair("server")
    shutil.copy(pair.certificate, volumes["tls"] / "tls.crt")
    shutil.copy(pair.key, volumes["tls"] / "tls.key")
    token = add_token(volumes["tokens"] / "tokens.toml", "shop", frozenset({Role.INFER}))
    with Pod(template, "torchserve", volumes, port=free_port()) as runtime:
        give_up = time.monotonic() + 120
        while not runtime.probe("startup"):
            assert runtime.process.poll() is None, runtime.process.communicate()
            assert time.monotonic() < give_up
            time.sleep(0.5)
        with Pod(template, "serving", volumes, port=free_port()) as server:
            server.wait_until_ready()
            url = f"https://127.0.0.1:{server.port}/v2/models/mf"
            bearer = {"authorization": f"Bearer {token}"}
            platform = httpx.get(url, headers=bearer, verify=False).json()["platform"]  # noqa: S501 (as a probe does)
            assert "torchserve" in platform
            server.terminate()
            server.ended_within(server.grace_s)
        runtime.terminate()
        runtime.ended_within(30)
