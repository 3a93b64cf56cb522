"""The contract that every backend keeps (``tests/serving/backends`` holds its suite)."""

from collections.abc import Mapping
from typing import Any, Protocol

from numpy.typing import NDArray

Feed = Mapping[str, NDArray[Any]]


class Backend(Protocol):
    """One loaded graph."""

    def run(self, feed: Feed) -> dict[str, NDArray[Any]]:
        """Run the graph once. Thread-safe.

        Args:
            feed: One array for each graph input, as ``driftwheel.preprocessing.encode`` makes them.

        Returns:
            One array for each graph output, by name.

        Raises:
            ModelFaultError: The runtime failed.
        """
        ...
