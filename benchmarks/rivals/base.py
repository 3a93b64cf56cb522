"""What a server must be able to do to take part: start, answer, stop, and say which processes it consists of."""

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from benchmarks.tools.messages import Call
from benchmarks.tools.probing import ProbeError, probe
from benchmarks.tools.processes import identity, tree
from driftwheel.bundle import Bundle

START_TIMEOUT_S = 90.0

WARM_UP_S = 2.0
"""Enough for servers that are not compiled while they run."""


FAULTS = (RuntimeError, OSError)
"""How a server shows that it does not start, answers wrong, or does not answer (any more)."""


@dataclass(frozen=True, slots=True)
class Workplace:
    """Where a server may write, and the model that it serves."""

    folder: Path
    models: Path
    bundle: Bundle


class Rival(Protocol):
    """A server under measurement. One object may be started and stopped many times."""

    name: str
    warm_up_s: float
    """How long it takes until it is as fast as it gets."""

    @property
    def installed(self) -> bool:
        """Whether it can take part here."""
        ...

    def start(self, workplace: Workplace) -> None:
        """Start it and wait until its port is open."""
        ...

    def stop(self) -> None:
        """End it, with everything that it started."""
        ...

    target: str
    """``host:port`` of what ``call`` goes to, once started."""

    def pids(self) -> list[int]:
        """The processes that do its work."""
        ...

    def call(self, rows: int) -> Call:
        """The request to score so many pairs."""
        ...

    def scores(self, answer: bytes) -> NDArray[np.float32] | None:
        """The scores in an answer ``[rows]``; None where it runs no model."""
        ...


class ServerProcess:
    """A server that is a child process of ours, with its output in a file."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._log = Path()

    def launch(
        self, command: Sequence[str], log: Path, *, env: dict[str, str] | None = None, cwd: Path | None = None
    ) -> None:
        """Start it in a session of its own."""
        self._log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(env or {})},
                cwd=cwd,
                start_new_session=True,
            )

    @property
    def root(self) -> int:
        """The process that was started."""
        assert self._process is not None  # noqa: S101 (launch comes first)
        return self._process.pid

    def pids(self) -> list[int]:
        """It and its descendants."""
        return tree(self.root)

    def check_alive(self) -> None:
        """See that it still runs.

        Raises:
            RuntimeError: It has ended; the message holds the end of its output.
        """
        if self._process is not None and self._process.poll() is not None:
            tail = self._log.read_text(errors="replace")[-2000:]
            raise RuntimeError(f"{self._process.args!r} ended with code {self._process.returncode}:\n{tail}")

    def await_answer(self, target: str, call: Call) -> bytes:
        """Call until it answers.

        Raises:
            RuntimeError: It ended, or did not answer in time.
        """
        give_up = time.monotonic() + START_TIMEOUT_S
        while True:
            self.check_alive()
            try:
                return probe(target, call)
            except ProbeError as error:
                if time.monotonic() > give_up:
                    tail = self._log.read_text(errors="replace")[-2000:]
                    raise RuntimeError(f"no answer from {target}: {error}\n{tail}") from None
                time.sleep(0.2)

    def stop(self) -> None:
        """SIGTERM, and SIGKILL to the whole session after a while."""
        if self._process is None:
            return
        family = [identity(pid) for pid in self.pids()]
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=30)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        for member in family:  # those in sessions of their own
            if identity(member[0]) == member:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(member[0], signal.SIGKILL)
        self._process.wait()
        self._process = None


def free_port() -> int:
    """A port that nobody listens on at the moment."""
    with socket.socket() as probing:
        probing.bind(("127.0.0.1", 0))
        return probing.getsockname()[1]
