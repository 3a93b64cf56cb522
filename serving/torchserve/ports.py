"""The ports that a TorchServe is given: those of the settings, or free ones."""

import contextlib
import socket
from dataclasses import astuple

from driftwheel.errors import AddressInUseError, ConfigurationError
from driftwheel.serving_settings import TorchServeSettings
from serving.torchserve.configuration import LOOPBACK, Ports


def wanted_ports(settings: TorchServeSettings) -> Ports:
    """As the settings say; 0 is yet to be chosen."""
    return Ports(
        grpc=settings.grpc_port,
        http=settings.http_port,
        management=settings.management_port,
        metrics=settings.metrics_port,
        grpc_management=settings.grpc_management_port,
    )


def any_fixed(ports: Ports) -> bool:
    """Whether a second TorchServe could not listen beside the first."""
    return any(astuple(ports))


def chosen_ports(settings: TorchServeSettings) -> Ports:
    """Ports that nobody listens on at the moment.

    Raises:
        AddressInUseError: One that the settings fix is taken.
        ConfigurationError: Two of them are the same, or the host is not this machine's.
    """
    wanted = wanted_ports(settings)
    fixed = [port for port in astuple(wanted) if port]
    if len(set(fixed)) < len(fixed):
        raise ConfigurationError(f"the ports of TorchServe must differ, got {', '.join(map(str, fixed))}")
    with contextlib.ExitStack() as held:  # all at once: one that is let go of could be chosen again
        return Ports(
            grpc=_bound(held, settings.host, wanted.grpc, "grpc_port"),
            http=_bound(held, settings.host, wanted.http, "http_port"),
            management=_bound(held, LOOPBACK, wanted.management, "management_port"),
            metrics=_bound(held, LOOPBACK, wanted.metrics, "metrics_port"),
            grpc_management=_bound(held, LOOPBACK, wanted.grpc_management, "grpc_management_port"),
        )


def _bound(held: contextlib.ExitStack, host: str, port: int, field: str) -> int:
    one = held.enter_context(socket.socket())
    if port:  # connections that linger from before are no hindrance, to Java neither
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        one.bind((host, port))
    except socket.gaierror as error:
        raise ConfigurationError(f"torchserve.host {host!r} is not known here: {error.strerror}") from None
    except OSError as error:
        if port:
            raise AddressInUseError(
                f"{host}:{port} cannot be listened on: {error.strerror}",
                hint=f"choose another torchserve.{field}, or 0 for a free one",
            ) from None
        raise ConfigurationError(f"torchserve.host {host!r} cannot be listened on: {error.strerror}") from None
    return one.getsockname()[1]
