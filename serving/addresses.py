"""Ports: whether one is free, and how it stays ours."""

import contextlib
import errno
import socket

from driftwheel.errors import AddressInUseError, ConfigurationError


def check_address(host: str, port: int) -> None:
    """Refuse a port that somebody listens on, before anything is started.

    Raises:
        AddressInUseError: It is taken.
        ConfigurationError: The address is not one of this machine's.
    """
    bound(host, port).close()


def bound(host: str, port: int) -> socket.socket:
    """A socket bound to an address that nobody else holds; errors as ``check_address`` has them."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with contextlib.ExitStack() as on_error:
            claim = on_error.enter_context(socket.socket(family, kind, protocol))
            claim.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            claim.bind(address)
            on_error.pop_all()
            return claim
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise AddressInUseError(
                f"port {port} on {host} is in use by another process",
                hint="stop it, or choose another port with --port (0 takes a free one)",
            ) from None
        raise ConfigurationError(f"cannot listen on {host}:{port}: {error}") from None
