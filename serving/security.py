"""What is checked before the server starts: certificates, tokens, and what it leaves open to whom."""

import ipaddress
import ssl
from pathlib import Path

import structlog

from driftwheel.errors import ConfigurationError
from driftwheel.serving_settings import SecuritySettings
from driftwheel.settings import Settings
from serving.tokens import check_private, read_tokens

_log = structlog.get_logger()

_LOOPBACK_NAMES = ("localhost", "*.localhost", "127.0.0.1", "[::1]")


def default_token_file(settings: Settings) -> Path:
    """Where the token file lies unless a setting says otherwise."""
    return settings.home / "tokens.toml"


def is_loopback(host: str) -> bool:
    """Whether an address to listen on can be reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def allowed_hosts(settings: Settings) -> tuple[str, ...] | None:
    """The host names that calls may bear; None: any.

    A page whose own name points to 127.0.0.1 makes a browser call a loopback server as if it were the page's (DNS
    rebinding); its name gives it away.
    """
    hosts, listens = settings.security.allowed_hosts, settings.serving.host
    if hosts is not None:
        return None if "*" in hosts else hosts
    if not is_loopback(listens):
        return None
    return tuple(dict.fromkeys((*_LOOPBACK_NAMES, f"[{listens}]" if ":" in listens else listens)))


def secured(settings: Settings) -> Settings:
    """Refuse what cannot work, warn of what is open, and settle which token file holds while the server lives.

    Settled here and once: a worker that is started again after somebody deleted the file must not come up open.

    Raises:
        ConfigurationError: A certificate, key or token file is missing, unreadable, open to other users or faulty.
    """
    _check_tls(settings.security)
    tokens = settings.security.token_file or default_token_file(settings)
    found = settings.security.token_file is not None or tokens.exists()
    if found:
        read_tokens(tokens)
    if not is_loopback(settings.serving.host):
        for open_to_all, remedy in _openings(settings.security, has_tokens=found):
            _log.warning("server.exposed", host=settings.serving.host, what=open_to_all, close_it=remedy)
    settled = {"token_file": tokens.absolute() if found else None}
    return settings.model_copy(update={"security": settings.security.model_copy(update=settled)})


def _openings(security: SecuritySettings, *, has_tokens: bool) -> list[tuple[str, str]]:
    openings: list[tuple[str, str]] = []
    if not security.tls:
        openings.append(
            (
                "requests, answers and tokens pass in the clear: whoever is on the way can read and change them",
                "--tls-certificate and --tls-key, or a proxy before it that speaks TLS",
            )
        )
    if not has_tokens and security.tls_client_ca is None:
        openings.append(
            (
                "whoever reaches the port can ask the models and send feedback, which retraining learns from",
                "driftwheel token new --role infer --name NAME, or --tls-client-ca",
            )
        )
    return openings


def _check_tls(security: SecuritySettings) -> None:
    certificate, key, ca = security.tls_certificate, security.tls_key, security.tls_client_ca
    if certificate is None or key is None:
        for name in ("tls_certificate", "tls_key", "tls_client_ca"):
            if getattr(security, name) is not None:
                raise ConfigurationError(f"security.{name} is set, but TLS needs both tls_certificate and tls_key")
        return
    _check_readable("security.tls_certificate", certificate)
    check_private(key, "security.tls_key")
    _check_readable("security.tls_key", key)
    _check_pair(certificate, key)
    if ca is not None:
        _check_readable("security.tls_client_ca", ca)
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(ca)
        except ssl.SSLError:
            raise ConfigurationError(f"security.tls_client_ca {ca} holds no PEM certificate") from None


def _check_readable(name: str, path: Path) -> None:
    try:
        path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{name} {path} cannot be read: {error.strerror}") from None


def _check_pair(certificate: Path, key: Path) -> None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password=_no_password)
    except ssl.SSLError as error:
        if error.reason in ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH"):
            raise ConfigurationError(
                f"security.tls_key {key} is not the key of the certificate {certificate}"
            ) from None
        raise ConfigurationError(
            f"security.tls_certificate {certificate} and security.tls_key {key} must be PEM files of a certificate and its "
            f"key: {error.reason or error}"
        ) from None


def _no_password() -> str:
    raise ConfigurationError("security.tls_key is encrypted, and a server cannot ask for its password")
