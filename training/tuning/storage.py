"""Where studies are kept, and how a worker that died is told from one that works: the way to Optuna.

On one host that is a journal file, and each running trial a lock that the kernel releases with its worker. On many
hosts it is a MySQL or PostgreSQL database, and each running trial a heartbeat in it.
"""

import time
import warnings
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Protocol

from driftwheel.errors import ConfigurationError, TrainingError
from driftwheel.files import exclusive_lock, is_locked, waiting_lock
from driftwheel.settings import Settings, TuningSettings

if TYPE_CHECKING:
    from optuna import Study
    from optuna.storages import BaseStorage

SERVERS = ("mysql+pymysql://", "postgresql+psycopg://")
_ATTEMPTS = 5
"""Workers that are first at the same time make the same tables: the slower one finds them at its next attempt."""

Took = Callable[[int], None]
"""To be called with the number of the trial that a worker runs now."""


class Liveness(Protocol):
    """Tells the trials whose workers live from those whose workers are gone."""

    def turn(self) -> AbstractContextManager[Took]:
        """The time in which a worker asks for a trial and runs it. As far as the storage can say so, others wait until
        the trial was taken.
        """
        ...

    def bury(self, study: "Study") -> None:
        """Fail the trials whose workers are gone, and queue them again. Called in a turn, before a trial is taken."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """An open storage."""

    storage: "BaseStorage"
    liveness: Liveness
    described: str
    """Where it is, without user and password."""


def optuna() -> ModuleType:
    """Optuna, without its log lines: what they say is in the storage.

    Raises:
        ConfigurationError: It is not installed.
    """
    try:
        import optuna as module
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"tuning needs {error.name}, which is not installed", hint="pip install 'driftwheel[train]'"
        ) from None
    module.logging.set_verbosity(module.logging.CRITICAL)
    return module


def open_storage(settings: Settings, *, study: str) -> Opened:
    """Open what ``tuning.storage`` names, made if it is not there.

    Raises:
        ConfigurationError: It names something else than a file, MySQL or PostgreSQL, or the server does not answer.
    """
    where = settings.tuning.storage
    if where is None or "://" not in where:
        return _open_journal(settings, Path(where or settings.tuning_folder / "studies.journal"), study)
    if not where.startswith(SERVERS):
        scheme = where.partition("://")[0]
        raise ConfigurationError(
            f"tuning.storage must be a file, {' or '.join(f'{server}...' for server in SERVERS)}, got {scheme}://..."
        )
    return _open_server(settings.tuning, where)


def _open_journal(settings: Settings, path: Path, study: str) -> Opened:
    journal = optuna().storages.journal
    path.parent.mkdir(parents=True, exist_ok=True)
    # The lock that frees itself with its process; Optuna's default one stays behind when a worker is killed.
    backend = journal.JournalFileBackend(str(path), lock_obj=_JournalLock(path.with_name(f"{path.name}.lock")))
    locks = TrialLocks(settings.runtime / "tuning" / study, settings.tuning.retries)
    return Opened(storage=journal.JournalStorage(backend), liveness=locks, described=str(path))


def _open_server(tuning: TuningSettings, url: str) -> Opened:
    from sqlalchemy import URL, make_url
    from sqlalchemy.exc import ArgumentError, SQLAlchemyError

    try:
        parts = make_url(url)
    except (ArgumentError, ValueError):
        raise ConfigurationError("tuning.storage is not a URL: scheme://user:password@host:port/database") from None
    described = str(URL.create(parts.drivername, host=parts.host, port=parts.port, database=parts.database))
    fault = ""
    for _ in range(_ATTEMPTS):
        try:
            return Opened(storage=_database(tuning, url), liveness=Heartbeats(), described=described)
        except ImportError:
            raise ConfigurationError(
                f"tuning.storage needs {parts.get_driver_name()}, which is not installed",
                hint="pip install 'driftwheel[tuning]'",
            ) from None
        except (SQLAlchemyError, TrainingError) as error:
            fault = str(getattr(error, "orig", None) or error)
            time.sleep(0.2)
    raise ConfigurationError(f"tuning.storage {described} cannot be used: {fault}", hint="is the server up?")


def _database(tuning: TuningSettings, url: str) -> "BaseStorage":
    with experimental():
        return optuna().storages.RDBStorage(
            url,
            engine_kwargs={"pool_pre_ping": True},
            heartbeat_interval=tuning.heartbeat_s,
            grace_period=tuning.grace_s,
            heartbeat_stale_trial_callback=_retry(tuning.retries),
        )


def _retry(most: int) -> Callable[..., None]:
    with experimental():
        return optuna().storages.RetryHeartbeatStaleTrialCallback(max_retry=most)


@contextmanager
def experimental() -> Generator[None]:
    """Optuna calls its heartbeats experimental since 2.8; we have read what they do."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna().exceptions.ExperimentalWarning)
        yield


class Heartbeats:
    """In a database: ``Study.optimize`` beats for the trial that it runs, and what stopped beating is dead."""

    @contextmanager
    def turn(self) -> Generator[Took]:
        """See ``Liveness.turn``. Nobody waits: workers may ask for more trials than are wanted, and give them back."""
        yield lambda _: None

    def bury(self, study: "Study") -> None:
        """See ``Liveness.bury``."""
        with experimental():
            optuna().storages.fail_stale_trials(study)


class TrialLocks:
    """On one host: a locked file for each trial that runs.

    Args:
        folder: Where the files lie, for one study.
        retries: How often a trial whose worker died is queued again.
    """

    def __init__(self, folder: Path, retries: int) -> None:
        self._folder = folder
        self._retries = retries

    @contextmanager
    def turn(self) -> Generator[Took]:
        """See ``Liveness.turn``."""
        with ExitStack() as asking, ExitStack() as running:
            asking.enter_context(waiting_lock(self._folder / "asking.lock"))

            def took(number: int) -> None:
                running.enter_context(exclusive_lock(self._file(number), purpose=f"trial {number}"))
                asking.close()

            yield took

    def bury(self, study: "Study") -> None:
        """See ``Liveness.bury``."""
        states, again = optuna().trial.TrialState, _retry(self._retries)
        for trial in study.get_trials(deepcopy=False, states=(states.RUNNING,)):
            if not is_locked(self._file(trial.number)):
                study.tell(trial.number, state=states.FAIL)
                again(study, study.trials[trial.number])

    def _file(self, number: int) -> Path:
        return self._folder / f"trial-{number}.lock"


class _JournalLock:
    """Optuna's ``BaseJournalFileLock``, over a lock of the kernel's."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._held = ExitStack()

    def acquire(self) -> bool:
        """Wait for the lock."""
        self._held.enter_context(waiting_lock(self._path))
        return True

    def release(self) -> None:
        """Let it go."""
        self._held.close()


@contextmanager
def reachable(opened: Opened) -> Generator[None]:
    """Say what is wrong when the storage is lost while it is in use.

    Raises:
        TrainingError: It did not answer.
    """
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (SQLAlchemyError, optuna().exceptions.StorageInternalError) as error:
        cause = error.__cause__ or error
        raise TrainingError(
            f"the tuning storage {opened.described} failed: {getattr(cause, 'orig', None) or cause}",
            hint="run it again: the study goes on",
        ) from None
