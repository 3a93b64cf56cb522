"""What the server says about itself."""

from functools import cache
from importlib.metadata import version

SERVER_NAME = "driftwheel"
PROTOCOL_EXTENSIONS: tuple[str, ...] = (
    "binary_tensor_data",
    "model_configuration",
    "model_repository",
    "statistics",
)
"""As Triton calls them."""


@cache
def server_version() -> str:
    """The installed version of Driftwheel."""
    return version("driftwheel")
