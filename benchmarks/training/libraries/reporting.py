"""What a process that trained a model says of itself beside its answer."""

import os
import resource
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

from numpy.typing import NDArray

from benchmarks.training.libraries.exchange import Measured
from driftwheel.files import sha256_of

_ROOT = Path(__file__).parents[3]
_AT_WORK = ("benchmarks", "training", "serving")
"""Our packages that an answer follows from. The floor carries settings, errors and files, and computes nothing."""
_NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Process:
    """This process, from when it begins to train."""

    at: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    load: float = field(default_factory=lambda: os.getloadavg()[0])

    def measured(self, values: NDArray[Any], training_s: float, found: Mapping[str, Any] = _NOTHING) -> Measured:
        """An answer with what it took."""
        return Measured(values, training_s, _peak_mib(), self.at, self.load, _sources(), found)


def _peak_mib() -> float:
    """The most memory that this process, or the largest of those that it started, has had resident.

    Its own comes from ``/proc``: what ``getrusage`` says of a process includes what the one that started it had.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    own_kib = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    return max(own_kib, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss) / 1024


def _sources() -> dict[str, str]:
    """Of each file of ours that is loaded, the one that was started as a program included."""
    loaded = [module.__file__ for name, module in sys.modules.items() if name.partition(".")[0] in _AT_WORK]
    files = [Path(file) for file in [sys.modules["__main__"].__file__, *loaded] if file]
    return {file.relative_to(_ROOT).as_posix(): sha256_of(file) for file in files}
