"""What a process of ours takes from the machine."""

import resource
import time

_KIB = 1024
_MB = 1e6


def cpu_seconds() -> float:
    """Processor time of this process and its threads so far."""
    return time.process_time()


def peak_memory_mb() -> float:
    """The most memory that this process has held at once (resident), in megabytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _KIB / _MB
