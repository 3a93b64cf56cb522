"""The contract that every backend keeps (``tests/serving/backends`` holds its suite)."""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

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


@runtime_checkable
class RemoteBackend(Backend, Protocol):
    """One whose runs another process does. A run only waits, so it never holds up the event loop; and that process may be
    down, which ``run`` tells with UnavailableError.
    """

    @property
    def down(self) -> str | None:
        """Why no run can be answered at the moment; None where nothing is known against it."""
        ...

    def remember(self, feed: Feed, answers: Mapping[str, NDArray[Any]]) -> None:
        """Note a run that was answered rightly: once it has been down, it counts as up when it answers this again."""
        ...
