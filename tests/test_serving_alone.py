"""A serving host: an environment with the serving extra and nothing else."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from driftwheel.settings import Settings
from serving.runtime import server_address
from tests.serving.conftest import prepared_home

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(300)]

ROOT = Path(__file__).parent.parent
ABSENT = ("torch", "mlflow", "evidently", "pandas", "sklearn", "feast", "onnx", "matplotlib")


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a fresh environment with ``driftwheel[serve]``."""
    folder = tmp_path_factory.mktemp("alone")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    python = folder / "venv" / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check"]
    install = [*pip, "install", "-q", "--no-compile", "-c", ROOT / "constraints.txt", f"{ROOT}[serve]"]
    done = subprocess.run(install, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return python


def test_what_training_needs_is_not_there(python: Path) -> None:
    code = f"import importlib.util as u; print(*(n for n in {ABSENT!r} if u.find_spec(n)))"
    assert subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == ""


def test_the_server_starts_and_answers_there(python: Path, tmp_path: Path) -> None:
    settings: Settings = prepared_home(tmp_path / "home")
    command = [python, "-m", "driftwheel", "--home", settings.home, "serve", "--port", "0"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    give_up = time.monotonic() + 60
    while (address := server_address(settings)) is None:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < give_up
        time.sleep(0.01)
    answer = httpx.post(f"{address.url}/v1/recommend", json={"user_id": 15, "k": 1})
    assert answer.json()["items"][0]["item_id"] == 40
    assert httpx.get(f"{address.url}/v2/health/ready").status_code == 200
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 0


def test_features_are_not_served_without_feast(python: Path, tmp_path: Path) -> None:
    settings: Settings = prepared_home(tmp_path / "home")
    command = [python, "-m", "driftwheel", "--home", settings.home, "serve", "--port", "0"]
    environment = {**os.environ, "DRIFTWHEEL_FEATURES__SERVE": "true"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.returncode, "features need feast, which is not installed" in done.stderr) == (2, True), done.stderr


def test_a_worker_does_without_pandas_and_rich_even_where_they_are_installed() -> None:
    code = (
        "import serving.entry, sys, numpy as np, pyarrow as pa\n"
        "column = pa.chunked_array([pa.array(np.arange(3)), pa.array(np.arange(3), mask=np.ones(3, bool))])\n"
        "assert column.take(pa.array(np.array([0, 4]))).to_pylist() == [0, None]\n"
        "assert column.chunk(0).to_numpy().tolist() == [0, 1, 2]\n"
        "assert not {'pandas', 'rich'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "module", ["serving.backends.onnx", "serving.recommendation.product", "serving.entry", "exporters.parity"]
)
def test_onnxruntime_reports_nothing_to_its_maker(module: str, tmp_path: Path) -> None:
    code = f"import {module}, onnxruntime; onnxruntime.SessionOptions()"
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("ORT_", "XDG_", "CI"))}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**environment, "HOME": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / ".cache").rglob("*.onnxruntime*")) == []
