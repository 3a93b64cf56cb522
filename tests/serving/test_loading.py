"""Processes that die while they load a version, and what those after them make of it."""

import asyncio
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from driftwheel.errors import ModelFaultError, UnavailableError
from driftwheel.refusals import read_refusal
from driftwheel.rollout import start_candidate
from driftwheel.wheel.judging import look
from serving.loading import Loading, forget_process, loading_folder, note_death, pause_s
from tests.serving.conftest import BY, prepared_home
from tests.serving.repository_worker import worker

DIES = """
import os, signal, sys
from pathlib import Path
from serving.loading import Loading
with Loading(Path(sys.argv[1]), now=lambda: float(sys.argv[4])).attempt("mf", int(sys.argv[2]), sys.argv[3]) as ours:
    assert ours
    os.kill(os.getpid(), signal.SIGSEGV)
"""
"""A process that dies of what it loads."""


def dies(folder: Path, trial: str, at: float) -> int:
    """Let a process die at a time while it loads version 2, and tell what it was."""
    process = subprocess.Popen([sys.executable, "-c", DIES, str(folder), "2", trial, str(at)])
    assert process.wait(60) == -signal.SIGSEGV
    return process.pid


def loads(folder: Path, trial: str, at: float) -> bool:
    with Loading(folder, now=lambda: at).attempt("mf", 2, trial) as ours:
        return ours


def test_a_candidate_gets_two_deaths_a_trial_and_a_pause_between(tmp_path: Path) -> None:
    dies(tmp_path, "monday", 100)
    with pytest.raises(
        UnavailableError, match=r"1 process died while loading version 2 of 'mf'; it is tried again in 5 s"
    ):
        loads(tmp_path, "monday", 100)
    note_death(tmp_path, dies(tmp_path, "monday", 200), "signal SIGSEGV")
    with pytest.raises(ModelFaultError, match=r"crash while loading: 2 processes died .*, the last by signal SIGSEGV"):
        loads(tmp_path, "monday", 1e9)
    assert loads(tmp_path, "tuesday", 200)


def test_a_stable_version_is_tried_again_ever_more_rarely_until_it_loads(tmp_path: Path) -> None:
    for at in (100.0, 200.0, 300.0):
        dies(tmp_path, "", at)
    with pytest.raises(UnavailableError, match="3 processes died .* tried again in 20 s"):
        loads(tmp_path, "", 300)
    assert loads(tmp_path, "", 320)
    assert loads(tmp_path, "", 300)  # it has loaded, and those deaths are forgotten
    assert [pause_s(deaths) for deaths in (1, 2, 20)] == [5, 10, 300]


def test_who_is_ended_on_purpose_counts_as_no_death(tmp_path: Path) -> None:
    forget_process(tmp_path, dies(tmp_path, "monday", 100))
    assert loads(tmp_path, "monday", 100)


def test_one_process_tries_a_candidate_before_the_others(tmp_path: Path) -> None:
    with Loading(tmp_path).attempt("mf", 2, "monday") as ours:
        assert ours
        assert not loads(tmp_path, "monday", 100)
        assert loads(tmp_path / "elsewhere", "monday", 100)
    with Loading(tmp_path).attempt("mf", 2, "monday") as ours:  # it is known to load: all at once
        assert ours
        assert loads(tmp_path, "monday", 100)


def test_an_error_is_no_death(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="damaged"), Loading(tmp_path).attempt("mf", 2, "monday"):
        raise ValueError("damaged")
    assert loads(tmp_path, "monday", 100)


def test_a_folder_that_cannot_be_written_keeps_nobody_from_loading(tmp_path: Path) -> None:
    (tmp_path / "mf").write_text("no folder")
    assert loads(tmp_path, "monday", 100)


def test_the_judge_aborts_what_kills_who_loads_it_and_the_server_goes_on(tmp_path: Path) -> None:
    settings = prepared_home(tmp_path)
    rollout = start_candidate(settings.rollouts, "mf", 2, **BY)
    for at in (100, 200):
        dies(loading_folder(settings.runtime), rollout.started_at, at)

    async def serve() -> dict[int, str]:
        async with worker(settings) as one:
            return one.states()

    assert asyncio.run(serve()) == {1: "READY", 2: "UNAVAILABLE"}
    assert "crash while loading" in (read_refusal(settings.refusals, rollout) or "")
    verdict, after = look(settings, "mf")
    assert (verdict.decision, after.candidate) == ("ABORT", None)
    assert "crash while loading: 2 processes died" in verdict.reasons[0]
