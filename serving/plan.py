"""What a supervisor is to do, in plain values."""

import json
from pathlib import Path
from typing import Any

import msgspec

from driftwheel.log import LogFormat
from driftwheel.processes import with_settings
from serving.envoy_files import EnvoyFiles
from serving.retention import Retention


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """Made by ``front_door.planned``. A supervisor lives as long as its server, and needs none of the libraries that have
    read and checked the settings: without them it takes half of the memory.
    """

    home: str
    host: str
    port: int
    """0 takes a free one."""
    tls: bool
    workers: int
    drain_timeout_s: float
    compression: str
    """Of sealed log segments."""
    flush_interval_s: float
    """How often the workers write to the log."""
    retention: Retention
    """How long they are kept."""
    log_format: LogFormat
    log_level: str
    runtime_folder: str
    log_folder: str
    settings: str
    """All of the settings as JSON, for the workers."""
    envoy: tuple[str, ...]
    """The command that starts a worker, but for its configuration file, which comes last."""
    files: EnvoyFiles

    @property
    def runtime(self) -> Path:
        """As ``Settings`` has it."""
        return Path(self.runtime_folder)

    @property
    def prediction_log(self) -> Path:
        """As ``Settings`` has it."""
        return Path(self.log_folder)

    def child_environment(self) -> dict[str, str]:
        """As ``Settings`` has it."""
        return with_settings(self.settings)

    def on_port(self, port: int) -> "Plan":
        """The same, for a port that has been claimed."""
        settings: dict[str, Any] = json.loads(self.settings)
        settings["serving"]["port"] = port
        return msgspec.structs.replace(self, port=port, settings=json.dumps(settings), files=self.files.on_port(port))
