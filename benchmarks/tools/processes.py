"""What a server costs the machine: processor time and memory of all its processes, read from ``/proc`` (proc(5))."""

import contextlib
import os
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Memory:
    """Of several processes together, in MiB."""

    rss: float
    """Resident; what processes share counts once for each."""
    pss: float
    """Proportional: what processes share is divided among them, so a sum is true."""


def tree(root: int) -> list[int]:
    """A process and its descendants, those that are there now."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and (fields := _stat(int(entry.name))):
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    found, pending = list[int](), [root]
    while pending:
        found.append(pid := pending.pop())
        pending.extend(children.get(pid, []))
    return found


def identity(pid: int) -> tuple[int, str]:
    """A process id with the moment of its start: ids are used again, and this pair is not."""
    fields = _stat(pid)
    return pid, fields[19] if fields else ""


def cpu_seconds(pids: Iterable[int]) -> float:
    """Processor time so far, user and system, of these processes and of children that they have buried."""
    ticks = 0
    for pid in pids:
        if fields := _stat(pid):
            ticks += sum(int(field) for field in fields[11:15])  # utime stime cutime cstime
    return ticks / _TICKS_PER_S


def memory(pids: Iterable[int]) -> Memory:
    """What these processes hold now."""
    rss = pss = 0
    for pid in pids:
        with contextlib.suppress(OSError):  # it ended meanwhile
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                name, _, value = line.partition(":")
                if name == "Rss":
                    rss += int(value.split()[0])
                elif name == "Pss":
                    pss += int(value.split()[0])
    return Memory(rss / 1024, pss / 1024)


def threads(pids: Collection[int]) -> int:
    """How many threads they have."""
    return sum(_entries(f"/proc/{pid}/task") for pid in pids)


def open_files(pids: Collection[int]) -> int:
    """How many file descriptors they have open."""
    return sum(_entries(f"/proc/{pid}/fd") for pid in pids)


def _entries(folder: str) -> int:
    with contextlib.suppress(OSError):
        return sum(1 for _ in Path(folder).iterdir())
    return 0


def _stat(pid: int) -> list[str]:
    """The fields of ``/proc/<pid>/stat`` after the command's name, which may hold anything; nothing once it has ended."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return []
