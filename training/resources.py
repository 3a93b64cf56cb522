"""What a process of ours takes from the machine."""

import os
import resource
import time
from pathlib import Path

from driftwheel.errors import ConfigurationError

_KIB = 1024
_MB = 1e6
_RANK_MB = 250.0
"""What a rank holds for itself before it has any data: Python, PyTorch and its threads."""
_CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
"""What a container may take; the second where there is version 1."""


def cpu_seconds() -> float:
    """Processor time of this process and its threads so far."""
    return time.process_time()


def peak_memory_mb() -> float:
    """The most memory that this process has held at once (resident), in megabytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _KIB / _MB


def machine_memory_mb() -> float:
    """The memory of this machine, or of this container where that is less, in megabytes."""
    sizes = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    limits = [path.read_text().strip() for path in _CGROUP_LIMITS if path.exists()]
    return min(sizes + [int(limit) for limit in limits if limit.isdigit()]) / _MB


def check_ranks(ranks: int, memory_mb: float) -> None:
    """Refuse more ranks than a machine with so much memory can hold, before any is started.

    Raises:
        ConfigurationError: They do not fit.
    """
    most = max(1, int(memory_mb / _RANK_MB))
    if ranks > most:
        raise ConfigurationError(
            f"training.ranks (--ranks): expected at most {most}, got {ranks}: this machine has {memory_mb / 1000:.0f} GB of "
            f"memory, and each rank takes {_RANK_MB:.0f} MB before it has any data",
            hint="one rank a core, or a GPU, is as fast as it gets",
        )
