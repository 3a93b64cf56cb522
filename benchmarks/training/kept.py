"""Answers that were measured before, so that a comparison that was stopped goes on where it was.

An answer is good for as long as everything that it follows from is the same: the data, the model with its parameters and
seed, the libraries' versions, and every file of this project that was at work in the process that gave it. What is kept is
the answer itself; it is judged anew each time.
"""

import importlib.metadata
from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks.training.environment import REQUIREMENTS
from benchmarks.training.libraries.exchange import Measured, load_measured, save_measured
from driftwheel.files import sha256_of
from training.config import digest

CACHE = Path(__file__).parents[2] / "build" / "training"
"""Where answers are kept; git passes over it, and ``make clean`` deletes it. It belongs to one machine, as the seconds do."""

_ROOT = Path(__file__).parents[2]
_OURS = ("numpy", "scipy", "torch", "scikit-learn")
"""What our estimators compute with."""


class Kept:
    """What is kept of the answers about one table.

    Args:
        about: A digest of what is learned from and asked about.
        again: Names of models whose answers are not taken from here, only put here.
    """

    def __init__(self, about: str, *, folder: Path = CACHE, again: frozenset[str] = frozenset()) -> None:
        self._about = about
        self._folder = folder
        self._again = again

    def answer(self, name: str, key: object, measure: Callable[[], Measured]) -> Measured:
        """The answer of a model if it is here and nothing has changed; else it is measured, and kept.

        Args:
            key: All that the answer follows from beside the data and our own files, as JSON has it.
        """
        path = self._folder / f"{digest(self._about, key)}.npz"
        if name not in self._again and path.exists() and _unchanged((found := load_measured(path)).sources):
            return found
        measured = measure()
        save_measured(path, measured)
        return measured


def installed(*, library: bool) -> dict[str, str]:
    """The versions that an answer follows from: those of the libraries' environment, or of what ours compute with."""
    if library:
        return {"requirements": sha256_of(REQUIREMENTS)}
    return {name: importlib.metadata.version(name) for name in _OURS}


def _unchanged(sources: Mapping[str, str]) -> bool:
    return all((_ROOT / name).exists() and sha256_of(_ROOT / name) == was for name, was in sources.items())
