"""What is being loaded, written down before it is: a version that kills the process that loads it is known afterwards.

::

    <home>/run/loading/<model>/<version>/<process>-<random>.json   a marker, locked by the process that loads
    <home>/run/loading/<model>/<version>/first.lock                held by the one that tries a candidate first
    <home>/run/loading/<model>/<version>/proven                    the trial that the version has been loaded in

The kernel lets go of a dead process's locks, so a marker that nobody holds is of one that died. It outlasts the server:
where the only worker of a container dies, the next container of the same home knows.
"""

import fcntl
import os
import time
import uuid
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO

import msgspec
import structlog

from driftwheel.errors import ModelFaultError, UnavailableError
from driftwheel.files import is_locked, write_atomically
from driftwheel.names import check_name

_log = structlog.get_logger()

MOST_DEATHS = 2
"""So many processes may die while they load a candidate; after that it is not loaded again in this trial."""

_SHORTEST_PAUSE_S, _LONGEST_PAUSE_S = 5.0, 300.0


class Marker(msgspec.Struct, frozen=True, kw_only=True):
    """The content of a marker."""

    trial: str
    """When the trial of the version started; empty for one that is not on trial."""
    at: float
    """When loading began, in seconds since the epoch."""
    how: str = ""
    """How the process ended, where its supervisor saw it."""


def pause_s(deaths: int) -> float:
    """How long a version that so many processes died of is left alone, in seconds."""
    return min(_SHORTEST_PAUSE_S * 2.0 ** (deaths - 1), _LONGEST_PAUSE_S)


class Loading:
    """The markers of one home.

    Args:
        folder: As ``loading_folder`` has it.
        now: Seconds since the epoch.
    """

    def __init__(self, folder: Path, *, now: Callable[[], float] = time.time) -> None:
        self._folder = folder
        self._now = now

    @contextmanager
    def attempt(self, model: str, version: int, trial: str = "") -> Generator[bool]:
        """Load the version inside of this block. It blocks nobody.

        Args:
            trial: When the version's trial started. One process at a time loads it then until one has done so: a candidate
                that kills its loader leaves the other workers alone.

        Yields:
            False: Another process tries the version first; load nothing, and ask again.

        Raises:
            ModelFaultError: Too many processes died of this candidate in this trial.
            UnavailableError: One died of it a moment ago.
        """
        folder = self._folder / check_name(model) / str(version)
        with ExitStack() as held:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                dead = _dead(folder, trial)
                if trial and (dead or not _is_proven(folder, trial)):
                    if not _held(held, folder / "first.lock"):
                        yield False
                        return
                    dead = _dead(folder, trial)  # whoever had the lock may have died with it
                self._check(model, version, trial, [marker for _, marker in dead])
                held.enter_context(_marked(folder, Marker(trial=trial, at=self._now())))
            except OSError as error:  # a folder that cannot be written keeps no server from answering
                _log.warning("loading.unmarked", model=model, version=version, reason=str(error))
                dead = []
            yield True
            with suppress(OSError):  # the version is loaded, whether or not that can be written down
                for path, _ in dead:
                    path.unlink(missing_ok=True)
                if trial and not _is_proven(folder, trial):
                    write_atomically(folder / "proven", trial.encode())

    def _check(self, model: str, version: int, trial: str, dead: list[Marker]) -> None:
        if not dead:
            return
        how = next((f", the last by {marker.how}" for marker in reversed(dead) if marker.how), "")
        died = (
            f"{len(dead)} process{'es' if len(dead) > 1 else ''} died while loading version {version} of {model!r}{how}"
        )
        if trial and len(dead) >= MOST_DEATHS:
            raise ModelFaultError(f"crash while loading: {died}")
        left = dead[-1].at + pause_s(len(dead)) - self._now()
        if left > 0:
            raise UnavailableError(f"{died}; it is tried again in {left:.0f} s")


def loading_folder(runtime: Path) -> Path:
    """Where the markers of a home lie."""
    return runtime / "loading"


def note_death(folder: Path, process: int, how: str) -> None:
    """Write down how a process ended, for whatever it was loading."""
    for path in _of(folder, process):
        marker = _read(path)
        if marker is None:
            continue
        _log.error("worker.died_loading", model=path.parts[-3], version=int(path.parts[-2]), process=process, by=how)
        write_atomically(path, msgspec.json.encode(msgspec.structs.replace(marker, how=how)))


def forget_process(folder: Path, process: int) -> None:
    """A process was ended on purpose, whatever it was loading."""
    for path in _of(folder, process):
        path.unlink(missing_ok=True)


def _of(folder: Path, process: int) -> list[Path]:
    return sorted(folder.glob(f"*/*/{process}-*.json"))


def _read(path: Path) -> Marker | None:
    """None where it is gone, or no marker of ours."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Marker)
    except (FileNotFoundError, msgspec.MsgspecError):
        return None


def _dead(folder: Path, trial: str) -> list[tuple[Path, Marker]]:
    """The markers of processes that died in this trial, oldest first; those of other trials are removed."""
    return sorted(_dead_of(folder, trial), key=lambda one: one[1].at)


def _dead_of(folder: Path, trial: str) -> Iterator[tuple[Path, Marker]]:
    for path in folder.glob("[0-9]*.json"):
        marker = _read(path)
        try:
            if marker is None or is_locked(path):
                continue
        except FileNotFoundError:
            continue  # it was loaded between two looks
        if not path.exists():
            continue
        if marker.trial == trial:
            yield path, marker
        else:
            path.unlink(missing_ok=True)


def _is_proven(folder: Path, trial: str) -> bool:
    try:
        return (folder / "proven").read_text() == trial
    except FileNotFoundError:
        return False


def _held(held: ExitStack, path: Path) -> bool:
    """Hold a lock until ``held`` is closed; False: somebody else has it."""
    file = held.enter_context(path.open("a+"))
    return _lock(file)


def _lock(file: IO[str] | IO[bytes]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def _marked(folder: Path, marker: Marker) -> Generator[None]:
    """A marker that is locked before it has its name, so that nobody takes it for a dead one's."""
    path = folder / f"{os.getpid()}-{uuid.uuid4().hex}.json"
    temporary = path.with_suffix(".part")
    with temporary.open("wb") as file:
        _lock(file)
        file.write(msgspec.json.encode(marker))
        file.flush()
        os.fsync(file.fileno())
        temporary.rename(path)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
