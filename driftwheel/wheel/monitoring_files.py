"""Rules, dashboards and configuration of Prometheus, Alertmanager and Grafana, written for one's own addresses."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import monitoring
from driftwheel.errors import ConfigurationError
from driftwheel.files import write_atomically

_SOURCE = Path(monitoring.__file__).parent
_RUNBOOKS = "docs/runbooks"
_ADDRESS = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+):[0-9]{1,5}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where everything is. Addresses are HOST:PORT.

    Args:
        prometheus: A URL, as Grafana reaches it.
        runbooks: The URL of the folder with the runbooks; None for their path in the project.

    Raises:
        ConfigurationError: One of them is no address, or no URL.
    """

    servers: tuple[str, ...] = ("localhost:8080",)
    watcher: str = "localhost:9108"
    alertmanager: str = "localhost:9093"
    prometheus: str = "http://localhost:9090"
    runbooks: str | None = None

    def __post_init__(self) -> None:
        for flag, values in (
            ("--server", self.servers),
            ("--watcher", (self.watcher,)),
            ("--alertmanager", (self.alertmanager,)),
        ):
            for value in values:
                if not _ADDRESS.fullmatch(value):
                    raise ConfigurationError(f"{flag} must be HOST:PORT, got {value!r}")
        for flag, url in (("--prometheus", self.prometheus), ("--runbooks", self.runbooks)):
            if url is not None and (
                urlsplit(url).scheme not in {"http", "https"} or not url.isprintable() or " " in url
            ):
                raise ConfigurationError(f"{flag} must be a URL that begins with http:// or https://, got {url!r}")


def export_files(folder: Path, places: Places) -> list[str]:
    """Write all files into a folder and name them, relative to it. Files of these names are replaced."""
    written: list[str] = []
    for name, content in sorted(_files(folder, places)):
        write_atomically(folder / name, content.encode())
        written.append(name)
    return written


def _files(folder: Path, places: Places) -> Iterator[tuple[str, str]]:
    runbooks = places.runbooks.rstrip("/") if places.runbooks else _RUNBOOKS
    rules = (_SOURCE / "alerts/rules.yaml").read_text()
    yield "prometheus/rules/driftwheel.yaml", rules.replace(f"{_RUNBOOKS}/", f"{runbooks}/")
    for path in (_SOURCE / "dashboards/json").glob("*.json"):
        yield f"grafana/dashboards/driftwheel/{path.name}", path.read_text().replace(f"{_RUNBOOKS}/", f"{runbooks}/")
    own = {
        "localhost:8080": ", ".join(json.dumps(server) for server in places.servers),
        "localhost:9108": json.dumps(places.watcher),
        "localhost:9093": json.dumps(places.alertmanager),
        "http://localhost:9108/v1/alerts": json.dumps(f"http://{places.watcher}/v1/alerts"),
        "http://localhost:9090": json.dumps(places.prometheus),
        "/var/lib/grafana/dashboards/driftwheel": json.dumps(
            str(folder.absolute() / "grafana/dashboards/driftwheel"), ensure_ascii=False
        ),
    }
    for name in ("prometheus/prometheus.yml", "alertmanager/alertmanager.yml"):
        yield name, _with(own, (_SOURCE / "provisioning" / name).read_text())
    for kind in ("datasources", "dashboards"):
        content = (_SOURCE / f"provisioning/grafana/{kind}/driftwheel.yaml").read_text()
        yield f"grafana/provisioning/{kind}/driftwheel.yaml", _with(own, content)


def _with(own: dict[str, str], content: str) -> str:
    """A committed file, whose quoted defaults are places of this machine, with one's own places."""
    return re.sub(r'"([^"\n]*)"', lambda found: own.get(found.group(1), found.group()), content)
