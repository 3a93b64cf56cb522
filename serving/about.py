"""What the server says about itself."""

from functools import cache
from importlib.metadata import version

SERVER_NAME = "driftwheel"
PLATFORM = "onnxruntime_onnx"
PROTOCOL_EXTENSIONS: tuple[str, ...] = ()
"""None in full yet: the repository's index is there, loading and unloading go by rollouts."""


@cache
def server_version() -> str:
    """The installed version of Driftwheel."""
    return version("driftwheel")
