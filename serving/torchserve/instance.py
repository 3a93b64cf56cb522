"""One TorchServe and the folder that it works in, which holds all that it is told and all that it writes.

::

    <home>/torchserve/            for its owner alone
        address.json              where the TorchServe that takes calls is (address.py)
        runs/<id>/                one TorchServe
            config.properties, log4j2.xml, metrics.yaml, store/
            process.json          the process
            wanted                a sum of all that it was started with
            key_file.json         its tokens, which it makes itself at each start
            torchserve.log, console.log
            tmp/                  unpacked archives, the workers' sockets
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import msgspec

from driftwheel.files import write_atomically
from driftwheel.serving_settings import TorchServeSettings
from serving.torchserve import configuration
from serving.torchserve.address import KEY_FILE
from serving.torchserve.configuration import LOG, LOGGING, METRICS, PROPERTIES, STORE, WORKFLOWS, ArchivedVersion, Ports
from serving.torchserve.ports import wanted_ports
from serving.torchserve.process import ProcessIdentity, alive, kill, launch, terminate

_PROCESS, _WANTED, _CONSOLE, _SCRATCH = "process.json", "wanted", "console.log", "tmp"
_HANDLERS = "serving.torchserve.handlers"

_LONGEST_SCRATCH = 90
"""A path of a Unix socket has 107 bytes at most, ``/.ts.sock.65535`` included."""
_LOG_BYTES = 65_536

_REASON = re.compile(r"(?:exception|Error:) (.+)$")


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to run."""

    settings: TorchServeSettings
    versions: tuple[ArchivedVersion, ...]
    java: str
    python: str
    site: Path
    """The folder that the package ``ts`` lies in."""

    def sum(self) -> str:
        """The same for plans that would start the same."""
        content = [
            configuration.properties(self.settings, wanted_ports(self.settings), self.versions),
            configuration.log4j2(),
            _metrics_yaml().decode(),
            *self.command(Path(_SCRATCH)),
            *(version.sha256 for version in self.versions),
        ]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def command(self, scratch: Path) -> list[str]:
        """See ``configuration.command``."""
        return configuration.command(self.settings, java=self.java, python=self.python, site=self.site, scratch=scratch)


@dataclass(frozen=True, slots=True)
class Instance:
    """A TorchServe, whether or not it runs (still)."""

    folder: Path

    @property
    def identity(self) -> ProcessIdentity | None:
        """Its Java process; None where it was never started."""
        try:
            return msgspec.json.decode((self.folder / _PROCESS).read_bytes(), type=ProcessIdentity)
        except (OSError, msgspec.MsgspecError):
            return None

    @property
    def runs(self) -> bool:
        """Whether its Java process lives."""
        identity = self.identity
        return identity is not None and alive(identity)

    @property
    def key_file(self) -> Path:
        """Its tokens."""
        return self.folder / KEY_FILE

    @property
    def log(self) -> Path:
        """What it and its workers have to say."""
        return self.folder / LOG

    def was_started_with(self, plan: Plan) -> bool:
        """Whether a new one would be just like it."""
        with contextlib.suppress(OSError):
            return (self.folder / _WANTED).read_text() == plan.sum()
        return False

    def start(self, plan: Plan, variables: Mapping[str, str], *, tie: bool) -> ProcessIdentity:
        """Start it. It is not ready yet.

        Args:
            variables: The environment, of which it sees a part.
            tie: Whether it is to end with this process.
        """
        scratch = self._make_scratch()
        identity = launch(
            plan.command(scratch),
            folder=self.folder,
            output=self.folder / _CONSOLE,
            variables=configuration.environment(variables, scratch),
            tie=tie,
        )
        write_atomically(self.folder / _PROCESS, msgspec.json.encode(identity))
        return identity

    def stop(self, timeout_s: float) -> bool:
        """End it and its workers, and delete its keys and what it unpacked; the logs stay.

        Returns:
            Whether it ended by itself in time.
        """
        identity = self.identity
        in_time = identity is None or terminate(identity, timeout_s)
        scratch = (self.folder / _SCRATCH).resolve()
        kill(f"{configuration.MARK}={scratch}")
        self.key_file.unlink(missing_ok=True)
        shutil.rmtree(scratch, ignore_errors=True)
        if (link := self.folder / _SCRATCH).is_symlink():
            link.unlink()
        return in_time

    def why_not_loaded(self, model: str, version: int) -> str | None:
        """The reason that its log gives for a version that could not be loaded twice in a row; None where it does not."""
        worker = re.compile(rf" W-\d+-{re.escape(model)}_{version}(?:-std\w+)? ")
        lines = [line for line in _end_of(self.log).splitlines() if worker.search(line)]
        if not any("Auto recovery failed again" in line for line in lines):
            return None
        reasons = [found[1] for line in lines if "Failed to load model" in line and (found := _REASON.search(line))]
        return reasons[-1] if reasons else "its worker ends at once"

    def last_words(self, lines: int = 12) -> str:
        """The end of its logs, for people."""
        written = _end_of(self.folder / _CONSOLE).splitlines() + _end_of(self.log).splitlines()
        return "\n".join(written[-lines:])

    def _make_scratch(self) -> Path:
        """A folder of its own, in the system's folder for such things where paths here are too long for sockets."""
        scratch = self.folder.resolve() / _SCRATCH
        if len(os.fsencode(scratch)) <= _LONGEST_SCRATCH:
            scratch.mkdir(mode=0o700)
            return scratch
        elsewhere = Path(tempfile.mkdtemp(prefix="driftwheel-torchserve-")).resolve()
        scratch.symlink_to(elsewhere)
        return elsewhere


def prepare(runs: Path, plan: Plan, ports: Ports) -> Instance:
    """Lay out the folder of a new TorchServe under ``runs``."""
    runs.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=runs, prefix=""))  # for its owner alone
    for name in (STORE, WORKFLOWS):
        (folder / name).mkdir()
    for version in plan.versions:
        _link(version.archive, folder / STORE / version.archive.name)
    write_atomically(folder / PROPERTIES, _properties(plan, ports))
    write_atomically(folder / LOGGING, configuration.log4j2().encode())
    write_atomically(folder / METRICS, _metrics_yaml())
    write_atomically(folder / _WANTED, plan.sum().encode())
    return Instance(folder)


def instances(runs: Path) -> Sequence[Instance]:
    """All that have a folder."""
    return [Instance(folder) for folder in sorted(runs.iterdir()) if folder.is_dir()] if runs.is_dir() else []


def _properties(plan: Plan, ports: Ports) -> bytes:
    return configuration.properties(plan.settings, ports, plan.versions).encode("ascii")


def _metrics_yaml() -> bytes:
    return (files(_HANDLERS) / "driftwheel_metrics.yaml").read_bytes()


def _link(source: Path, target: Path) -> None:
    """The same file under a second name, where that can be: an archive that is written anew is another file."""
    try:
        os.link(source, target)
    except OSError:  # on another disk
        shutil.copyfile(source, target)


def _end_of(path: Path) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _LOG_BYTES))
            return file.read().decode(errors="replace")
    except OSError:
        return ""
