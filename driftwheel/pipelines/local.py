"""The pipeline on this machine: kfp's own runner, each step a process, in a process of its own.

``kfp.local`` keeps its state in globals, prints to standard output, and leaves its steps the environment; so it runs in a
child, ``python -m driftwheel.pipelines.local``, which has the settings in its environment.
"""

import os
import re
import signal
import subprocess
import sys
import warnings
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec

from driftwheel.errors import ConfigurationError, DriftwheelError
from driftwheel.files import exclusive_lock, write_atomically
from driftwheel.processes import tied
from driftwheel.settings import Settings
from driftwheel.wheel.progress import Reporter
from driftwheel.wheel.sources import Sources

_LINES = 12
"""How much of the end of the log an error shows."""

_STEP = re.compile(r"INFO - Executing task .*'(?P<name>\w+)'")
"""What the runner says when it begins with a step."""

_OURS = "driftwheel.errors."
"""What the line of a traceback that says what was wrong begins with, if it was one of our errors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arguments:
    """What a run is told."""

    home: str
    model: str
    sources: str
    """As JSON."""
    estimator: str
    learn: bool
    store: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of a run."""

    version: int
    passed: bool
    reasons: str
    """The gate's."""
    entry: str
    """``in service``, ``on trial``, ``archived``, ``refused``, or ``known`` where the version was in the rollout already."""
    metrics: dict[str, float]
    artifacts: dict[str, str]
    """Where the artifacts lie, by name."""


def run_locally(
    settings: Settings,
    sources: Sources,
    model: str,
    reporter: Reporter,
    *,
    estimator: str | None,
    learn: bool,
    store: str,
) -> Outcome:
    """Run the whole pipeline on this machine.

    Args:
        store: A folder or an object store that is published to; empty: none.

    Raises:
        ConfigurationError: kfp is not installed.
        DriftwheelError: A step failed; what was there before it goes on serving.
        BusyError: Another run of this home's pipeline is going on.
    """
    if find_spec("kfp") is None:
        raise ConfigurationError(
            "a pipeline needs kfp, which is not installed", hint="install driftwheel's extra pipeline"
        )
    folder = settings.home / "pipelines"
    log, result = folder / "run.log", folder / "run.json"
    arguments = Arguments(
        home=str(settings.home),
        model=model,
        sources=msgspec.json.encode(sources).decode(),
        estimator=estimator or "",
        learn=learn,
        store=store,
    )
    with exclusive_lock(settings.runtime / "pipeline.lock", purpose=f"a pipeline in {settings.home}"):
        folder.mkdir(parents=True, exist_ok=True)
        result.unlink(missing_ok=True)
        words = [msgspec.json.encode(arguments).decode(), str(folder), str(result)]
        with reporter.task(f"Running the pipeline of {model} (its log: {log})") as task:
            if _run(settings, words, log, reporter) != 0:
                raise DriftwheelError(f"the pipeline failed: {_why(log)}", hint=f"its log is {log}")
            outcome = msgspec.json.decode(result.read_bytes(), type=Outcome)
            task.finish(f"version {outcome.version}: {outcome.entry}")
        return outcome


def _run(settings: Settings, words: list[str], log: Path, reporter: Reporter) -> int:
    process = subprocess.Popen(
        tied([sys.executable, "-m", "driftwheel.pipelines.local", *words]),
        env=settings.child_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,  # a Ctrl-C reaches this process alone, which then tells the child, and that its steps
    )
    assert process.stdout is not None  # noqa: S101 (it was started with a pipe)
    with process, log.open("w") as file:
        try:
            for line in process.stdout:
                file.write(line)
                if (step := _STEP.search(line)) is not None:
                    reporter.note(step["name"])
        except BaseException:
            process.terminate()
            raise
    return process.returncode


def _why(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    ours = [line for line in lines if line.startswith(_OURS)]
    return ours[-1].partition(": ")[2] if ours else "\n".join(lines[-_LINES:])


def _end_steps(*_: object) -> None:
    """End the steps as well: they are in this process's group."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.killpg(0, signal.SIGTERM)
    raise KeyboardInterrupt


def _main(arguments: str, folder: str, result: str) -> None:
    """Run in this process, the steps in processes of their own, and write the outcome."""
    from kfp import local

    from driftwheel.pipelines.graph import local_pipeline

    signal.signal(signal.SIGTERM, _end_steps)
    # Its warning about images without "python" in their names: the steps run in this environment, not in an image.
    warnings.filterwarnings("ignore", message="You may be attemping to run a task", category=RuntimeWarning)
    local.init(runner=local.SubprocessRunner(use_venv=False), pipeline_root=folder)
    given = msgspec.json.decode(arguments, type=Arguments)
    run: Any = local_pipeline  # kfp makes more of the function than its signature says
    outputs = run(**asdict(given)).outputs
    outcome = Outcome(
        version=outputs["version"],
        passed=outputs["passed"],
        reasons=outputs["reasons"],
        entry=outputs["entry"],
        metrics=outputs["metrics"].metadata,
        artifacts={name: outputs[name].path for name in ("metrics", "classification", "comparison", "verdict")},
    )
    write_atomically(Path(result), msgspec.json.encode(outcome))


if __name__ == "__main__":
    _main(*sys.argv[1:])
