"""What becomes of a version that has left the snapshots: it goes as soon as the last call in flight lets go of it.

Nobody counts calls for that. A call holds the version that it runs on, and Python frees the version with the last
reference, and with it its sessions, tables and queue. Freed memory then stays in the C library's heaps, between what
is still in use; ``malloc_trim`` gives it back to the system.
"""

import asyncio
import contextlib
import ctypes
import gc
import weakref
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor

import structlog

from serving.engine import LoadedVersion

_log = structlog.get_logger()

_PATIENCE_S = 1.0
"""How long a version may live on before reference cycles (an exception and its frames make one) are looked for."""

FORGET_AFTER_S = 300.0
"""How long the metrics of a version stay after it left, in seconds, so that every scraper sees its last counts."""


class Retirement:
    """Follows versions to their end.

    Args:
        is_loaded: Whether a version, by name and number, is in service: then nothing of it is forgotten.
        on_retired: Called once the last call of a version is done.
        on_forgotten: Called ``forget_after_s`` later, unless the version came back.
        executor: Where memory is given back.
    """

    def __init__(
        self,
        *,
        is_loaded: Callable[[str, int], bool],
        on_retired: Callable[[str, int], Awaitable[None]],
        on_forgotten: Callable[[str, int], None],
        executor: Executor,
        forget_after_s: float = FORGET_AFTER_S,
    ) -> None:
        self._is_loaded = is_loaded
        self._on_retired = on_retired
        self._on_forgotten = on_forgotten
        self._executor = executor
        self._forget_after_s = forget_after_s
        self._tasks: set[asyncio.Task[None]] = set()
        self._timers: dict[tuple[str, int], asyncio.TimerHandle] = {}

    def follow(self, loaded: LoadedVersion) -> None:
        """Take a version that has just left. The caller must not keep it."""
        loop = asyncio.get_running_loop()
        ended = weakref.finalize(loaded, self._ended, loop, loaded.name, loaded.version)
        ended.atexit = False
        loop.call_later(_PATIENCE_S, _collect_unless, ended)

    async def close(self) -> None:
        """Let what is under way finish."""
        for timer in self._timers.values():
            timer.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _ended(self, loop: asyncio.AbstractEventLoop, name: str, version: int) -> None:
        # The last reference may be a thread's. The loop is closed once the server has ended, and then there is nothing to do.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(self._start_finish, name, version)

    def _start_finish(self, name: str, version: int) -> None:
        task = asyncio.create_task(self._finish(name, version))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _finish(self, name: str, version: int) -> None:
        loop = asyncio.get_running_loop()
        try:
            if not self._is_loaded(name, version):
                await self._on_retired(name, version)
        except Exception:  # noqa: BLE001 (whatever it was, memory is given back and the next version is followed)
            _log.exception("version.retire_failed", model=name, version=version)
        await loop.run_in_executor(self._executor, trim_memory)
        _log.info("version.retired", model=name, version=version)
        if (earlier := self._timers.get((name, version))) is not None:
            earlier.cancel()
        self._timers[(name, version)] = loop.call_later(self._forget_after_s, self._forget, name, version)

    def _forget(self, name: str, version: int) -> None:
        self._timers.pop((name, version), None)
        if not self._is_loaded(name, version):
            self._on_forgotten(name, version)


def _collect_unless(ended: weakref.finalize) -> None:
    if ended.alive:
        gc.collect()


def trim_memory() -> None:
    """Give the C library's free memory back to the system; nothing where it is not glibc."""
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
