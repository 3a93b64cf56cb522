"""What a TorchServe is told: its properties, its logging, its command line and its environment. Pure functions of the settings.

Hardened: a token for every call, no registering from outside, no archive from a URL, no package installed for a model, no
setting taken from the environment, management and metrics on loopback whatever the host. Quick: Prometheus metrics without the
collector of system metrics, logs of warnings only and written asynchronously, large batches.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from driftwheel.serving_settings import TorchServeSettings

PROPERTIES = "config.properties"
LOGGING = "log4j2.xml"
METRICS = "metrics.yaml"
STORE = "store"
WORKFLOWS = "workflows"
LOG = "torchserve.log"
"""Files and folders in the working folder of a TorchServe; it is given no other paths."""

LOOPBACK = "127.0.0.1"

MARK = "TMPDIR"
"""The variable by which the processes of one TorchServe are known: its value is the folder that is theirs alone."""

_NOTHING = "(?!)"
"""As a pattern it matches no URL, so that archives come from the store alone."""
_TOKENS_LAST_MIN = 10 * 365 * 24 * 60
"""A key lives as long as its process: after TorchServe's default of an hour every call would be refused, for good."""
_KEPT = ("PATH", "LD_LIBRARY_PATH", "LANG", "LANGUAGE", "TZ", "PYTHONPATH", "VIRTUAL_ENV", "JAVA_HOME")
_KEPT_PREFIXES = ("LC_", "CUDA_", "NVIDIA_", "OMP_", "ORT_")

_LOG4J2 = f"""<?xml version="1.0" encoding="UTF-8"?>
<Configuration status="error">
  <Appenders>
    <RollingFile name="file" fileName="{LOG}" filePattern="{LOG}.%i">
      <PatternLayout pattern="%d{{ISO8601}} %-5p %t %c{{1}} - %m%n"/>
      <SizeBasedTriggeringPolicy size="10 MB"/>
      <DefaultRolloverStrategy max="2"/>
    </RollingFile>
  </Appenders>
  <Loggers>
    <!-- What workers print: their start, and why one could not load. Our handlers print nothing for a request. -->
    <Logger name="MODEL_LOG" level="info"/>
    <!-- A line for each call. -->
    <Logger name="ACCESS_LOG" level="off"/>
    <Logger name="TS_METRICS" level="off"/>
    <Logger name="MODEL_METRICS" level="off"/>
    <Root level="warn"><AppenderRef ref="file"/></Root>
  </Loggers>
</Configuration>
"""


@dataclass(frozen=True, slots=True)
class ArchivedVersion:
    """A version of a model, and its archive."""

    model: str
    version: int
    archive: Path
    """A file whose name is the archive's in the store."""
    sha256: str


@dataclass(frozen=True, slots=True)
class Ports:
    """One for each listener of a TorchServe."""

    grpc: int
    http: int
    management: int
    metrics: int
    grpc_management: int


def properties(settings: TorchServeSettings, ports: Ports, versions: Sequence[ArchivedVersion]) -> str:
    """The content of ``config.properties``.

    Args:
        versions: The first of each model becomes the one that answers calls without a version.
    """
    return "".join(
        f"{name}={_escaped(str(value))}\n"
        for part in (_listeners(settings, ports), _hardening(), _tuning(settings), _models(settings, versions))
        for name, value in part.items()
    )


def log4j2() -> str:
    """The content of ``log4j2.xml``: warnings and what workers print, in files of limited size."""
    return _LOG4J2


def command(settings: TorchServeSettings, *, java: str, python: str, site: Path, scratch: Path) -> list[str]:
    """The command line, to be run in the working folder: what the ``torchserve`` launcher would run, which itself allows one
    TorchServe for a machine and stays between us and Java. It holds no secret.

    Args:
        python: What workers run on.
        site: The folder that the package ``ts`` lies in.
        scratch: For unpacked archives and the workers' sockets, whose paths may have some hundred characters at most.
    """
    options = [f"-Xmx{settings.java_heap_mib}m", "-XX:+ExitOnOutOfMemoryError", f"-Djava.io.tmpdir={scratch}"]
    options += [f"-Dmodel_server_home={site}", f"-Dlog4j.configurationFile={LOGGING}"]
    frontend = ["-cp", f"{site}/ts/frontend/*", "org.pytorch.serve.ModelServer"]
    return [java, *options, *frontend, "--python", python, "-f", PROPERTIES, "-s", STORE, "-w", WORKFLOWS, "-ncs"]


def environment(variables: Mapping[str, str], scratch: Path) -> dict[str, str]:
    """What of the environment TorchServe and its workers see: what programs need to run, and no credentials.

    ``TS_CONFIG_FILE`` and its like, which would win over the configuration, are left out too.
    """
    kept = {name: value for name, value in variables.items() if name in _KEPT or name.startswith(_KEPT_PREFIXES)}
    places = {"HOME": str(scratch), MARK: str(scratch), "LOG_LOCATION": ".", "METRICS_LOCATION": "."}
    return kept | places


def _listeners(settings: TorchServeSettings, ports: Ports) -> dict[str, Any]:
    return {
        "inference_address": f"http://{settings.host}:{ports.http}",
        "management_address": f"http://{LOOPBACK}:{ports.management}",
        "metrics_address": f"http://{LOOPBACK}:{ports.metrics}",
        "grpc_inference_address": settings.host,
        "grpc_inference_port": ports.grpc,
        "grpc_management_address": LOOPBACK,
        "grpc_management_port": ports.grpc_management,
    }


def _hardening() -> dict[str, Any]:
    return {
        "disable_token_authorization": "false",
        "token_expiration_min": _TOKENS_LAST_MIN,
        "enable_model_api": "false",
        "allowed_urls": _NOTHING,
        "use_env_allowed_urls": "false",
        "enable_envvars_config": "false",
        "install_py_dep_per_model": "false",
    }


def _tuning(settings: TorchServeSettings) -> dict[str, Any]:
    return {
        "job_queue_size": settings.queue_size,
        "max_request_size": settings.max_request_bytes,
        "max_response_size": settings.max_request_bytes,
        "default_response_timeout": settings.response_timeout_s,
        "async_logging": "true",
        "disable_system_metrics": "true",
        "enable_metrics_api": "true",
        "metrics_mode": "prometheus",
        "metrics_config": METRICS,
    }


def _models(settings: TorchServeSettings, versions: Iterable[ArchivedVersion]) -> dict[str, Any]:
    models: dict[str, dict[str, dict[str, Any]]] = {}
    names: list[str] = []
    for one in versions:
        own = models.setdefault(one.model, {})
        names.append(one.archive.name)
        own[str(one.version)] = {
            "defaultVersion": not own,
            "marName": one.archive.name,
            "minWorkers": settings.workers_per_version,
            "maxWorkers": settings.workers_per_version,
            "batchSize": settings.batch_size,
            "maxBatchDelay": settings.max_batch_delay_ms,
            "responseTimeout": settings.response_timeout_s,
        }
    return {"load_models": ",".join(names), "models": json.dumps(models)}


def _escaped(value: str) -> str:
    """As Java's ``Properties.load`` reads it back: it knows Latin-1, and escapes."""
    value = value.replace("\\", "\\\\")
    return "".join(one if one.isascii() else f"\\u{ord(one):04x}" for one in value)
