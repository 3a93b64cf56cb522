"""Child processes that never outlive the process that started them, not even after ``kill -9``.

Run as ``python -m driftwheel.processes COMMAND...`` it asks the kernel for a SIGTERM at the parent's death and then
becomes COMMAND. On systems other than Linux it only becomes COMMAND.
"""

import ctypes
import os
import signal
import sys

RESOLVED_VARIABLE = "DRIFTWHEEL_RESOLVED_SETTINGS"
"""How a parent hands its settings to a child process of ours, whole and resolved, as JSON."""

PR_SET_PDEATHSIG = 1
"""The request number from ``linux/prctl.h``."""


def with_settings(resolved: str) -> dict[str, str]:
    """The environment of a child process of ours: this one's, and the settings that ``load_settings`` reads back."""
    return {**os.environ, RESOLVED_VARIABLE: resolved}


def tied(command: list[str]) -> list[str]:
    """The command line that runs ``command`` tied to the life of the process that starts it."""
    return [sys.executable, "-m", "driftwheel.processes", str(os.getpid()), *command]


def tie(parent: int) -> None:
    """Ask the kernel to send this process a SIGTERM when ``parent``, which started it, dies."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it died before the request was made
            raise SystemExit(128 + signal.SIGTERM)


def main(parent: int, command: list[str]) -> None:
    """Tie this process to ``parent`` and replace it with ``command``."""
    tie(parent)
    os.execvp(command[0], command)  # noqa: S606 (the command comes from our own code)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
