"""Envoy's configuration: pyvoy's, with one exclusive listener, TLS, limits, and the admin interface on a socket file.

What is configured here runs in C++, before Python sees a call. What nobody asked for adds no filter, so that it costs
nothing: without a rate limit there is no rate limiting filter, and a foreign host name is looked up in a table that Envoy
consults anyway.
"""

import json
import resource
from pathlib import Path
from typing import Any

from pyvoy import PyvoyServer

from driftwheel.serving_settings import SecuritySettings
from driftwheel.settings import Settings
from serving.envoy_files import ADMIN_SOCKET, EnvoyFiles
from serving.security import allowed_hosts, is_loopback

Config = dict[str, Any]

_WORDS = {
    403: "the host name that this request was sent to is not one of this server's (security.allowed_hosts)",
    429: "too many requests from this address (security.requests_per_second)",
}
"""What Envoy refuses itself, in words that help; the application's own answers pass as they are."""

_TYPE = "type.googleapis.com/envoy."
_RATE_LIMIT = "envoy.filters.http.local_ratelimit"
_REFUSAL = "envoy.filters.http.rbac"
_ADDRESSES = 10_000
"""Client addresses whose rate is counted at a time; beyond that the ones longest unseen are forgotten."""

_OWN_FILES, _FEWEST = 512, 64
"""Open files that are kept for models, logs and metrics; and connections that are allowed even so."""

_FOREIGN_BYTES = "%[89A-Fa-f][0-9A-Fa-f]"
"""Escaped bytes that are not ASCII. No path of ours has any, and where they are not UTF-8 the call would hang: pyvoy cannot
tell the application of it.
"""

_HEALTH = ("/v2/health/", "/ping", "/grpc.health.v1.Health/", "/inference.GRPCInferenceService/Server")
"""What begins so is answered whatever the rate."""


def bootstrap(settings: Settings, admin_socket: Path) -> Config:
    """Envoy's configuration; under TLS it names files beside the admin socket that ``EnvoyFiles`` writes."""
    serving, security = settings.serving, settings.security
    server = PyvoyServer("serving.entry:app", address=serving.host, port=serving.port, lifespan=True)
    config = server.get_envoy_config()
    config["admin"] = {
        "address": {"pipe": {"path": str(admin_socket), "mode": 0o600}},
        "ignore_global_conn_limit": True,
    }
    config["overload_manager"] = _connection_limit(security)
    (listener,) = config["static_resources"]["listeners"]
    # With SO_REUSEPORT a second server would silently take half of the connections; the supervisor keeps it from that.
    listener["enable_reuse_port"] = serving.workers > 1
    # What lies here of a request whose application does not read on; then the client has to wait.
    listener["per_connection_buffer_limit_bytes"] = 1024 * 1024
    (chain,) = listener["filter_chains"]
    manager = chain["filters"][0]["typed_config"]
    manager.update(_http(security))
    if security.requests_per_second:
        # Otherwise a client's address would be whatever it writes into x-forwarded-for.
        manager.update(
            use_remote_address=True, skip_xff_append=True, xff_num_trusted_hops=settings.security.trusted_proxies
        )
    manager["route_config"] = _routes(settings)
    manager["http_filters"] = [*_filters(settings), *manager["http_filters"]]
    if security.tls:
        config["node"] = {"id": "driftwheel", "cluster": "driftwheel"}  # secrets that reload want a name for who asks
        chain["transport_socket"] = _tls(security, admin_socket)
        chain["transport_socket_connect_timeout"] = "10s"
    return config


def envoy_files(settings: Settings) -> EnvoyFiles:
    """What an Envoy reads at its start: the main file, and the ones that it names. No key is copied into them."""
    beside = {
        _secret_suffix(name): json.dumps({"resources": [{**secret, "name": name}]})
        for name, secret in _secrets(settings.security).items()
    }
    return EnvoyFiles(json.dumps(bootstrap(settings, Path(ADMIN_SOCKET))), beside)


def _http(security: SecuritySettings) -> Config:
    """The connection manager: protocols, timeouts against slow clients, sizes."""
    return {
        "server_name": "driftwheel",
        "drain_timeout": "0.2s",  # between "no new calls soon" and "no new calls", the two GOAWAYs of HTTP/2
        "request_headers_timeout": f"{min(10.0, security.request_timeout_s):g}s",
        "request_timeout": f"{security.request_timeout_s:g}s",
        "stream_idle_timeout": f"{security.stream_timeout_s:g}s",
        "common_http_protocol_options": {"idle_timeout": f"{security.idle_timeout_s:g}s", "max_headers_count": 100},
        "max_request_headers_kb": security.max_header_kib,
        "normalize_path": True,
        "merge_slashes": True,
        # The application says 405 and which methods a path takes; over HTTP/2 any method comes through as it is.
        "http_protocol_options": {"allow_custom_methods": True},
        "http2_protocol_options": {
            "max_concurrent_streams": 1024,
            "initial_stream_window_size": 1024 * 1024,
            "initial_connection_window_size": 16 * 1024 * 1024,
        },
        "local_reply_config": _local_replies(),
    }


def _local_replies() -> Config:
    """Envoy's own refusals in the envelope of ours: ``{"error": message}``; gRPC calls get the bare message."""
    is_grpc = {"name": "content-type", "string_match": {"prefix": "application/grpc"}}
    no_grpc = {"header_filter": {"header": {**is_grpc, "invert_match": True, "treat_missing_header_as_empty": True}}}
    envelope: Config = {"json_format": {"error": "%LOCAL_REPLY_BODY%"}}
    foreign = {"name": ":path", "string_match": {"safe_regex": {"regex": f"[^?]*{_FOREIGN_BYTES}.*"}}}
    words: Config = {"body": {"inline_string": "the path has bytes that are not ASCII"}, "status_code": 400}
    mappers: list[Config] = [
        {"filter": {"header_filter": {"header": foreign}}, **words, "body_format_override": envelope}
    ]
    for status, message in _WORDS.items():
        value = {"default_value": status, "runtime_key": "none"}
        with_status = {"status_code_filter": {"comparison": {"op": "EQ", "value": value}}}
        both = {"and_filter": {"filters": [with_status, no_grpc]}}
        words = {"body": {"inline_string": message}}
        mappers += [{"filter": both, **words, "body_format_override": envelope}, {"filter": with_status, **words}]
    return {"mappers": [*mappers, {"filter": no_grpc, "body_format_override": envelope}]}


def _connection_limit(security: SecuritySettings) -> Config:
    """As many as are allowed, and no more than this process may open files: without a file left nothing works."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]  # the hard limit, up to which Envoy raises its own
    files = security.max_connections if most == resource.RLIM_INFINITY else max(_FEWEST, most - _OWN_FILES)
    return {
        "resource_monitors": [
            {
                "name": "envoy.resource_monitors.global_downstream_max_connections",
                "typed_config": {
                    "@type": f"{_TYPE}extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
                    "max_active_downstream_connections": min(security.max_connections, files),
                },
            }
        ]
    }


def _routes(settings: Settings) -> Config:
    """Names that are served, and what differs by path. A call to any other name meets the filter that refuses it."""
    foreign = {"safe_regex": {"regex": f".*{_FOREIGN_BYTES}.*"}}
    routes = [_route("/")]
    if settings.security.requests_per_second:
        routes = [*(_route(path, {_RATE_LIMIT: {"disabled": True}}) for path in _HEALTH), *routes]
    routes = [{**_route("/", {_REFUSAL: {"config": _refuse_all()}}), "match": foreign}, *routes]
    hosts = allowed_hosts(settings)
    served: Config = {"name": "served", "domains": ["*"] if hosts is None else list(hosts), "routes": routes}
    if hosts is None:
        return {"virtual_hosts": [served]}
    refused = {"name": "refused", "domains": ["*"], "routes": [_route("/", {_REFUSAL: {"config": _refuse_all()}})]}
    return {"virtual_hosts": [served, refused], "ignore_port_in_host_matching": True}


def _route(prefix: str, filters: dict[str, Config] | None = None) -> Config:
    route: Config = {"match": {"prefix": prefix}, "non_forwarding_action": {}}
    if filters:
        route["typed_per_filter_config"] = {
            name: {"@type": f"{_TYPE}config.route.v3.FilterConfig", **change} for name, change in filters.items()
        }
    return route


def _refuse_all() -> Config:
    return {
        "@type": f"{_TYPE}extensions.filters.http.rbac.v3.RBACPerRoute",
        "rbac": {"rules": {"action": "ALLOW", "policies": {}}},
    }


def _filters(settings: Settings) -> list[Config]:
    """What stands before the application."""
    filters: list[Config] = []
    refusal = {"@type": f"{_TYPE}extensions.filters.http.rbac.v3.RBAC"}
    filters.append({"name": _REFUSAL, "typed_config": refusal, "disabled": True})
    if settings.security.requests_per_second:
        filters.append({"name": _RATE_LIMIT, "typed_config": _rate_limit(settings.security)})
    if settings.security.tls and not is_loopback(settings.serving.host):
        # Browsers keep this for the host with all its ports: on localhost it would close a developer's other servers.
        filters.append(_answer_header("strict-transport-security", "max-age=31536000"))
    return filters


def _rate_limit(security: SecuritySettings) -> Config:
    """A bucket for each client address: of IPv6 its /64, as one client has that many."""
    rate = security.requests_per_second
    every = {"default_value": {"numerator": 100}}
    bucket = {"max_tokens": security.request_burst or max(1, round(rate)), **_refill(rate)}
    masked = {"v4_prefix_mask_len": 32, "v6_prefix_mask_len": 64}
    return {
        "@type": f"{_TYPE}extensions.filters.http.local_ratelimit.v3.LocalRateLimit",
        "stat_prefix": "rate_limit",
        "filter_enabled": every,
        "filter_enforced": every,
        "rate_limits": [{"actions": [{"masked_remote_address": masked}]}],
        "descriptors": [{"entries": [{"key": "masked_remote_address"}], "token_bucket": bucket}],
        "max_dynamic_descriptors": _ADDRESSES,
        # For calls from a socket without an address; must be there.
        "token_bucket": bucket,
        "always_consume_default_token_bucket": False,
        "rate_limited_as_resource_exhausted": True,
        "response_headers_to_add": [
            {"header": {"key": name, "value": value}}
            for name, value in (("retry-after", "1"), ("grpc-retry-pushback-ms", "1000"))
        ],
    }


def _refill(rate: float) -> Config:
    """So many tokens a second, in steps that Envoy takes: whole tokens, at least 50 ms apart."""
    if rate >= 1 and rate == round(rate):
        return {"tokens_per_fill": int(rate), "fill_interval": "1s"}
    return {"tokens_per_fill": max(1, round(rate * 1000)), "fill_interval": "1000s"}


def _answer_header(name: str, value: str) -> Config:
    header = {"header": {"key": name, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
    return {
        "name": "envoy.filters.http.header_mutation",
        "typed_config": {
            "@type": f"{_TYPE}extensions.filters.http.header_mutation.v3.HeaderMutation",
            "mutations": {"response_mutations": [{"append": header}]},
        },
    }


def _tls(security: SecuritySettings, admin_socket: Path) -> Config:
    context: Config = {
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
        "alpn_protocols": ["h2", "http/1.1"],
        "tls_certificate_sds_secret_configs": [_secret_source("certificate", admin_socket)],
    }
    if security.tls_client_ca is not None:
        context["validation_context_sds_secret_config"] = _secret_source("client_ca", admin_socket)
    return {
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": f"{_TYPE}extensions.transport_sockets.tls.v3.DownstreamTlsContext",
            "common_tls_context": context,
            "require_client_certificate": security.tls_client_ca is not None,
        },
    }


def _secret_suffix(name: str) -> str:
    return f"-{name}.json"


def _secret_source(name: str, admin_socket: Path) -> Config:
    path = {"path": f"{admin_socket}{_secret_suffix(name)}"}
    return {"name": name, "sds_config": {"path_config_source": path, "resource_api_version": "V3"}}


def _secrets(security: SecuritySettings) -> dict[str, Config]:
    """What names certificates and keys; Envoy follows the files that are named.

    A changed certificate is taken for new connections once it has been *moved* into place, as certbot, cert-manager and
    ``mv`` do it; written over in place it is not seen.
    """
    if security.tls_certificate is None or security.tls_key is None:
        return {}
    kind = {"@type": f"{_TYPE}extensions.transport_sockets.tls.v3.Secret"}
    pair: Config = {
        "certificate_chain": _file(security.tls_certificate),
        "private_key": _file(security.tls_key),
        "watched_directory": {"path": str(security.tls_certificate.absolute().parent)},
    }
    secrets: dict[str, Config] = {"certificate": {**kind, "tls_certificate": pair}}
    if security.tls_client_ca is not None:
        ca = {"trusted_ca": _file(security.tls_client_ca)}
        ca["watched_directory"] = {"path": str(security.tls_client_ca.absolute().parent)}
        secrets["client_ca"] = {**kind, "validation_context": ca}
    return secrets


def _file(path: Path) -> dict[str, str]:
    return {"filename": str(path.absolute())}
