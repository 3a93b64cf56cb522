"""The processes of a TorchServe: the Java frontend, which leads a process group, and the Python workers in it (Linux)."""

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from driftwheel.processes import tied

_POLL_S = 0.05
_KILLED_S = 5.0
"""How long the kernel may take to end what was killed."""

_START_TICKS = 19
"""The field of ``/proc/<pid>/stat`` after the name (proc(5) counts it 22nd): ticks after boot."""


class ProcessIdentity(msgspec.Struct, frozen=True, kw_only=True):
    """A process, told from a later one that was given the same id."""

    pid: int
    started_ticks: int


def launch(
    command: Sequence[str], *, folder: Path, output: Path, variables: Mapping[str, str], tie: bool
) -> ProcessIdentity:
    """Start a process in a session of its own; the files that it makes are for its owner alone.

    Args:
        folder: Its working folder.
        tie: Whether it is to be told to end when this process dies. Otherwise it lives on.

    Raises:
        OSError: It cannot be started.
    """
    with output.open("wb") as file:
        process = subprocess.Popen(
            tied(list(command)) if tie else command,
            cwd=folder,
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            umask=0o077,
        )
    # Takes note of its end, should that come while we are here; a dead child stays in the table of processes otherwise.
    threading.Thread(target=process.wait, name="torchserve-wait", daemon=True).start()
    return ProcessIdentity(pid=process.pid, started_ticks=_started(process.pid) or 0)


def alive(identity: ProcessIdentity) -> bool:
    """Whether this very process runs."""
    return _started(identity.pid) == identity.started_ticks


def terminate(identity: ProcessIdentity, timeout_s: float) -> bool:
    """Ask a frontend to end with its workers, and wait.

    Returns:
        Whether it has.
    """
    if alive(identity):
        with contextlib.suppress(ProcessLookupError):
            os.kill(identity.pid, signal.SIGTERM)
    return _gone_within(identity, timeout_s)


def kill(mark: str) -> None:
    """End at once every process of this user whose environment has a variable just so, ``NAME=value``.

    Workers outlive a frontend that crashed. Its process group could name them, but not for sure: once the last of them has
    ended, others may be given its number.
    """
    give_up = time.monotonic() + _KILLED_S
    while (pids := marked(mark)) and time.monotonic() < give_up:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(_POLL_S)


def marked(mark: str) -> list[int]:
    """The living processes of this user whose environment has a variable just so."""
    wanted, found = os.fsencode(mark), list[int]()
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):  # another user's, or gone
                if wanted in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
    return found


def _gone_within(identity: ProcessIdentity, timeout_s: float) -> bool:
    give_up = time.monotonic() + timeout_s
    while alive(identity):
        if time.monotonic() >= give_up:
            return False
        time.sleep(_POLL_S)
    return True


def _started(pid: int) -> int | None:
    """When a process began; None where there is none, or only what a parent has not noted yet."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in ("Z", "X") else int(fields[_START_TICKS])
