"""Traces, where a collector is named: the seam to OpenTelemetry, which is imported by nobody who does not trace.

What is traced, and how, lies in ``spans``. A server without ``tracing.endpoint`` runs the transports and the core as they
are: no wrapper, no branch per call.
"""

from importlib.util import find_spec
from typing import TYPE_CHECKING

from driftwheel.errors import ConfigurationError
from driftwheel.settings import Settings

if TYPE_CHECKING:
    from serving.spans import Tracing

_NEEDED = ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http")


def check_tracing(settings: Settings) -> None:
    """Refuse to trace without OpenTelemetry, before anything is started.

    Raises:
        ConfigurationError: A collector is named, and a package is missing.
    """
    if settings.tracing.endpoint is None:
        return
    for package in _NEEDED:
        if not _is_installed(package):
            raise ConfigurationError(
                f"tracing.endpoint is set, and {package} is not installed",
                hint="pip install 'driftwheel[tracing]', or leave tracing.endpoint unset",
            )


def start_tracing(settings: Settings) -> "Tracing | None":
    """Begin to trace; None where no collector is named.

    Raises:
        ConfigurationError: OpenTelemetry is not installed.
    """
    if settings.tracing.endpoint is None:
        return None
    check_tracing(settings)
    from serving.spans import Tracing

    return Tracing(settings.tracing, settings.tracing.endpoint)


def _is_installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:
        return False
