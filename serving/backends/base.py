"""The contract that every backend keeps (``tests/serving/backends`` holds its suite)."""

from collections.abc import Mapping
from typing import Any, Protocol

from numpy.typing import NDArray

Feed = Mapping[str, NDArray[Any]]


class Backend(Protocol):
    """One loaded graph."""

    @property
    def platform(self) -> str:
        """What runs it, as the Open Inference Protocol writes it: ``<project>_<format>``."""
        ...

    def run(self, feed: Feed) -> dict[str, NDArray[Any]]:
        """Run the graph once. Thread-safe; the feed is only read, and may be read-only memory.

        Args:
            feed: One array for each graph input, as ``driftwheel.preprocessing.encode`` makes them.

        Returns:
            One array for each graph output, by name. They are the caller's: no later run touches them.

        Raises:
            ModelFaultError: The runtime failed, the feed does not fit the graph, or the backend has been closed.
        """
        ...

    def close(self) -> None:
        """Let go of the graph and its memory once the runs in flight are done. Closing twice is closing once."""
        ...
