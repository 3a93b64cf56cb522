"""What the server says about itself."""

from functools import cache
from importlib.metadata import version

SERVER_NAME = "driftwheel"
PLATFORM = "onnxruntime_onnx"
PROTOCOL_EXTENSIONS = ("model_repository",)


@cache
def server_version() -> str:
    """The installed version of Driftwheel."""
    return version("driftwheel")
