"""The tree holds what it promises: import contracts, lint, types, generated code, and what the server may import."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent


@pytest.mark.parametrize(
    "command",
    [
        ["ruff", "check", "."],
        ["ruff", "format", "--check", "."],
        ["pyright"],
        ["lint-imports", "--no-cache"],
    ],
    ids=lambda command: command[0] + "-" + command[-1],
)
def test_check(command: list[str]) -> None:
    done = subprocess.run([BIN / command[0], *command[1:]], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_generated_code_is_what_the_sources_generate() -> None:
    environment = {"PYTHON": sys.executable, "PATH": "/usr/bin:/bin"}
    done = subprocess.run(["proto/check.sh"], cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr


def test_the_server_imports_no_training_library() -> None:
    code = "import serving.app, serving.front_door, serving.entry, sys; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {
        "torch",
        "mlflow",
        "pandas",
        "evidently",
        "feast",
        "sklearn",
        "matplotlib",
        "scipy",
        "training",
        "exporters",
        "grpc",
    }
    assert heavy & set(done.stdout.split()) == set()


def test_no_code_file_is_too_long() -> None:
    tracked = subprocess.run(
        ["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    lengths = {
        name: len((ROOT / name).read_text().splitlines())
        for name in tracked
        if "_proto" not in name and (ROOT / name).exists()
    }
    assert {name: lines for name, lines in lengths.items() if lines > 400} == {}
    commands = {name: lines for name, lines in lengths.items() if name.startswith("driftwheel/commands/")}
    assert {name: lines for name, lines in commands.items() if lines > 200} == {}
