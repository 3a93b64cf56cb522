import os
import signal
import subprocess
import sys
import time

import pytest

from driftwheel.processes import tied

PARENT = """
import subprocess, sys, time
from driftwheel.processes import tied
child = subprocess.Popen(tied([sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)"]),
                         stdout=subprocess.PIPE, text=True)
child.stdout.readline()
print(child.pid, flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel request is Linux's")
def test_a_tied_child_dies_with_a_killed_parent() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.send_signal(signal.SIGKILL)
    give_up = time.monotonic() + 60
    while time.monotonic() < give_up and _alive(child):
        time.sleep(0.02)
    assert not _alive(child)


def test_a_tied_child_is_the_command_itself() -> None:
    command = [sys.executable, "-c", "import os, sys; print(os.getpid()); sys.exit(3)"]
    with subprocess.Popen(tied(command), stdout=subprocess.PIPE, text=True) as process:
        out, _ = process.communicate()
    assert (int(out), process.returncode) == (process.pid, 3)


def _alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as stat:  # noqa: PTH123
            return stat.read().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
    finally:
        os.sched_yield()
