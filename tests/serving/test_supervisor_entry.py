"""``driftwheel serve`` as a process: what it becomes, and how it ends."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

from driftwheel.files import is_locked
from driftwheel.settings import Settings, load_settings
from serving.envoy_files import EnvoyFiles
from serving.front_door import planned
from serving.plan import Plan
from serving.runtime import lock_path
from tests.serving.conftest import prepared_home


def serve(settings: Settings, *flags: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "driftwheel", "serve", *flags]
    return subprocess.Popen(command, env=settings.child_environment(), stderr=subprocess.PIPE, text=True)


def wait_until_it_supervises(process: subprocess.Popen[str]) -> None:
    line, give_up = Path(f"/proc/{process.pid}/cmdline"), time.monotonic() + 60
    while b"serving.supervisor_entry" not in line.read_bytes():
        assert process.poll() is None
        assert time.monotonic() < give_up
        time.sleep(0.001)


def test_the_supervisor_has_nothing_that_it_does_not_use() -> None:
    code = "import serving.supervisor_entry, sys; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"pydantic", "pydantic_core", "typer", "click", "rich", "numpy", "pyarrow", "ssl", "pyvoy", "grpc"}
    assert heavy & set(done.stdout.split()) == set()


@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_in_the_middle_of_the_change_is_not_lost(tmp_path: Path, by: signal.Signals) -> None:
    process = serve(prepared_home(tmp_path))
    wait_until_it_supervises(process)
    process.send_signal(by)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, "server.stopped" in errors, f"by={by.name}" in errors) == (0, True, True), errors
    assert "Traceback" not in errors


def test_a_home_that_is_served_already_ends_it_as_any_command(tmp_path: Path) -> None:
    settings = prepared_home(tmp_path)
    first = serve(settings)
    try:
        give_up = time.monotonic() + 60
        while not is_locked(lock_path(settings)):
            assert time.monotonic() < give_up
            time.sleep(0.01)
        second = serve(settings, "--port", "0")
        _, errors = second.communicate(timeout=60)
        assert second.returncode == 7
        assert f"already going on in process {first.pid}" in errors
        assert "error: " in errors
        assert "Traceback" not in errors
    finally:
        first.terminate()
        first.communicate(timeout=60)


def test_a_plan_comes_through_whole_and_moves_to_another_port(tmp_path: Path) -> None:
    settings = load_settings(home=tmp_path, serving={"port": 0, "workers": 3}, log={"compression": "zstd"})
    plan = planned(settings)
    assert msgspec.json.decode(msgspec.json.encode(plan), type=Plan) == plan
    assert (plan.runtime, plan.prediction_log) == (settings.runtime, settings.prediction_log)
    assert (plan.workers, plan.compression, plan.tls) == (3, "zstd", False)
    moved = plan.on_port(4321)
    assert load_settings_of(moved).serving.port == 4321
    assert load_settings_of(moved).log == settings.log
    moved.files.write(tmp_path / "admin-0", tmp_path / "envoy.json")
    config = json.loads((tmp_path / "envoy.json").read_text())
    assert config["static_resources"]["listeners"][0]["address"]["socket_address"]["port_value"] == 4321
    assert config["admin"]["address"]["pipe"]["path"] == str(tmp_path / "admin-0")


def load_settings_of(plan: Plan) -> Settings:
    return Settings.model_validate_json(plan.settings)


def test_files_lie_beside_the_admin_socket_wherever_that_is(tmp_path: Path) -> None:
    folder = tmp_path / 'a "quoted" folder'
    folder.mkdir()
    text = json.dumps({"admin": "@admin-socket@", "secret": "@admin-socket@-certificate.json"})
    EnvoyFiles(text, {"-certificate.json": "{}"}).write(folder / "admin-7", folder / "envoy.json")
    written = json.loads((folder / "envoy.json").read_text())
    assert written == {"admin": str(folder / "admin-7"), "secret": str(folder / "admin-7-certificate.json")}
    assert Path(written["secret"]).read_text() == "{}"
