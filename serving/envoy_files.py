"""The files that one Envoy reads at its start, but for where its worker's admin socket lies."""

import json
from pathlib import Path

import msgspec

ADMIN_SOCKET = "@admin-socket@"
"""Stands in the texts for the path of a worker's admin socket, beside which its other files lie."""


class EnvoyFiles(msgspec.Struct, frozen=True):
    """Made by ``envoy.envoy_files``."""

    main: str
    """The configuration, JSON."""
    beside: dict[str, str]
    """Files that it names, by what follows the admin socket's name in theirs."""

    def on_port(self, port: int) -> "EnvoyFiles":
        """The same, but listening on another port."""
        config = json.loads(self.main)
        (listener,) = config["static_resources"]["listeners"]
        listener["address"]["socket_address"]["port_value"] = port
        return EnvoyFiles(json.dumps(config), self.beside)

    def write(self, admin_socket: Path, path: Path) -> None:
        """Write them for one worker; ``path`` is the configuration's."""
        for suffix, text in self.beside.items():
            admin_socket.with_name(admin_socket.name + suffix).write_text(text)
        place = json.dumps(str(admin_socket))[1:-1]
        path.write_text(self.main.replace(ADMIN_SOCKET, place))
