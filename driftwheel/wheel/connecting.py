"""A home's own commands as clients of its server."""

from driftwheel.client import Client, Tls
from driftwheel.settings import Settings


def connect(settings: Settings, target: str) -> Client:
    """A client with what ``[client]`` says: a token, and TLS where the server speaks it or an authority is named.

    Raises:
        ConfigurationError: A file cannot be used, or the token would travel unencrypted.
    """
    own = settings.client
    tls = None
    if settings.security.tls or own.tls_ca is not None:
        tls = Tls(ca=own.tls_ca, certificate=own.tls_certificate, key=own.tls_key, server_name=own.tls_server_name)
    return Client(target, token_file=own.token_file, tls=tls)
