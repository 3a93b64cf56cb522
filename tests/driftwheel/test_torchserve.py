"""``driftwheel torchserve``: what it serves, from which archives, and how a person or a script meets it."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from driftwheel.errors import ConfigurationError, NotFoundError
from driftwheel.files import sha256_of
from driftwheel.rollout import serve_stable, start_candidate
from driftwheel.settings import Settings, load_settings
from driftwheel.wheel.torchserve import archived_version, wanted_versions
from exporters.archive import archive_path
from serving.torchserve.process import marked
from tests.bundles import make_churn_bundle, make_rating_bundle
from tests.serving.torchserve.running import needs_java

BY = {"by": "test", "now": "2026-01-01T00:00:00Z"}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Two versions of ``mf``, the first in service, and ``churn``."""
    made = load_settings(home=tmp_path / "home")
    make_rating_bundle(made.models, 1)
    make_rating_bundle(made.models, 2)
    make_churn_bundle(made.models, 1)
    for name in ("mf", "churn"):
        serve_stable(made.rollouts, name, 1, **BY)
    return made


def run(settings: Settings, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "driftwheel", "--home", str(settings.home), "torchserve", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env={**os.environ, **variables})


def with_torchserve(settings: Settings, **own: object) -> Settings:
    return load_settings(home=settings.home, torchserve=own)


def test_wanted_is_what_the_rollouts_name_stable_first(settings: Settings) -> None:
    assert wanted_versions(settings) == {"churn": [1], "mf": [1]}
    start_candidate(settings.rollouts, "mf", 2, **BY)
    assert wanted_versions(settings) == {"churn": [1], "mf": [1, 2]}
    assert wanted_versions(with_torchserve(settings, models=["mf"])) == {"mf": [1, 2]}
    more = with_torchserve(settings, models=["mf"], versions={"mf": [2, 3, 3], "other": [7]})
    assert wanted_versions(more) == {"mf": [1, 2, 3], "other": [7]}


def test_nothing_wanted_is_one_clear_message(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="nothing to serve"):
        wanted_versions(load_settings(home=tmp_path / "empty"))
    with pytest.raises(NotFoundError, match="'none' has no rollout"):
        wanted_versions(with_torchserve(settings, models=["none"]))


def test_archives_are_written_where_they_are_missing_or_old(settings: Settings) -> None:
    path = archive_path(settings.models, "mf", 1)
    first = archived_version(settings.models, "mf", 1)
    assert (first.archive, first.sha256) == (path, sha256_of(path))
    written = path.stat().st_mtime_ns
    assert archived_version(settings.models, "mf", 1) == first
    assert path.stat().st_mtime_ns == written
    for spoil in (_other_handler, _other_bundle, lambda path: path.write_bytes(b"no archive")):
        spoil(path)
        assert archived_version(settings.models, "mf", 1) == first


def _other_handler(path: Path) -> None:
    _rewrite(path, lambda name, content: content + b"\n# older\n" if name == "driftwheel_mf.py" else content)


def _other_bundle(path: Path) -> None:
    def change(name: str, content: bytes) -> bytes:
        if name != "MAR-INF/MANIFEST.json":
            return content
        manifest = json.loads(content)
        manifest["driftwheel"]["bundleSha256"] = "0" * 64
        return json.dumps(manifest).encode()

    _rewrite(path, change)


def _rewrite(path: Path, change) -> None:
    with zipfile.ZipFile(path) as source:
        content = {name: change(name, source.read(name)) for name in source.namelist()}
    with zipfile.ZipFile(path, "w") as target:
        for name, one in content.items():
            target.writestr(name, one)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--help"], "behind the server"),
        (["up", "--help"], "no call fails"),
        (["status", "--help"], "Ends with code 1"),
    ],
)
def test_help_teaches(settings: Settings, words: list[str], says: str) -> None:
    done = run(settings, *words, COLUMNS="200")
    assert (done.returncode, says in done.stdout) == (0, True), done.stdout


def test_it_is_down_until_it_is_up(settings: Settings) -> None:
    for words, code, answer in (("status", 1, {"running": False}), ("down", 0, {"stopped": False})):
        done = run(settings, words, "--json")
        assert (done.returncode, json.loads(done.stdout)) == (code, answer)
    assert run(settings, "status").stderr == "TorchServe is down.\n"
    assert run(settings, "down").stderr == "TorchServe was not running.\n"
    assert not settings.torchserve_folder.exists()


@needs_java
def test_what_is_missing_is_one_clear_message(settings: Settings) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        cases = (
            ({"DRIFTWHEEL_TORCHSERVE__JAVA": "no-java"}, "openjdk-17-jre-headless"),
            ({"DRIFTWHEEL_TORCHSERVE__GRPC_PORT": port}, f"127.0.0.1:{port} cannot be listened on"),
            ({"DRIFTWHEEL_TORCHSERVE__BATCH_SIZE": "0"}, "torchserve.batch_size"),
        )
        for variables, says in cases:
            done = run(settings, "up", "--model", "churn", **variables)
            assert (done.returncode, says in done.stderr, "Traceback" in done.stderr) == (2, True, False), done.stderr


@pytest.mark.system
@needs_java
def test_a_release_through_a_foreground_one(settings: Settings, tmp_path: Path) -> None:
    own = {"DRIFTWHEEL_TORCHSERVE__WORKERS_PER_VERSION": "2", "DRIFTWHEEL_TORCHSERVE__MODELS": '["mf"]'}
    command = [sys.executable, "-m", "driftwheel", "--home", str(settings.home), "torchserve", "up", "--foreground"]
    with (tmp_path / "output").open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env={**os.environ, **own})
    try:
        _wait_until_up(settings, process, tmp_path / "output")
        assert "2 of 2" in (tmp_path / "output").read_text()
        start_candidate(settings.rollouts, "mf", 2, **BY)
        table = run(settings, "status", **own)
        assert (table.returncode, "Not served yet: mf 2" in table.stderr) == (0, True)
        done = run(settings, "up", "--json", DRIFTWHEEL_TORCHSERVE__MODELS='["mf"]')
        answer = json.loads(done.stdout)
        assert (answer["change"], answer["missing"], done.stderr) == ("replaced", [], "")
        assert [(one["version"], one["workers_ready"], one["workers"]) for one in answer["versions"]] == [
            ("1", 1, 1),
            ("2", 1, 1),
        ]
        mark = f"TMPDIR={(Path(answer['key_file']).parent / 'tmp').resolve()}"
        assert len(marked(mark)) == 3
        time.sleep(0.5)
        assert process.poll() is None  # it stays with the one that took over
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    assert run(settings, "status").returncode == 1
    assert marked(mark) == []


def _wait_until_up(settings: Settings, process: subprocess.Popen[bytes], output: Path) -> None:
    give_up = time.monotonic() + 60
    while not (settings.torchserve_folder / "address.json").exists() or "Process" not in output.read_text():
        assert process.poll() is None, output.read_text()
        assert time.monotonic() < give_up
        time.sleep(0.1)
