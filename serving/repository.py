"""What is loaded: for each rollout, its stable version and its candidate, switched between two requests.

The event loop reads one immutable snapshot per model. A rollout that changes is worked out beside it (bundles read,
checked, warmed up and proved in a thread) and then takes its place in one assignment. What cannot be loaded is refused with
its reason, and the snapshot that was there goes on.

Rollouts say what takes traffic. Beside them an operator may ``load`` a version for calls that pin it, and ``unload`` a
model; such wishes hold in every worker of the home until the server ends.
"""

import asyncio
import weakref
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from dataclasses import dataclass, replace

import structlog

from driftwheel.errors import DriftwheelError, InvalidRequestError, NotFoundError, UnavailableError
from driftwheel.rollout import Rollout, list_rollouts, read_rollout
from driftwheel.settings import Settings
from monitoring.metrics import ServingMetrics
from serving.engine import LoadedVersion
from serving.refusing import is_its_own, tell_judge
from serving.retirement import FORGET_AFTER_S, Retirement
from serving.runtime import wishes_folder
from serving.served_model import IndexEntry, ServedModel
from serving.split import Split
from serving.version_loader import VersionLoader
from serving.wishes import NOTHING, Wish, change_wish, drop_wish, read_wish

_log = structlog.get_logger()

_RETRY_S = 5.0
"""How long a refused bundle is left alone before it is tried again, in seconds: somebody may have put it right."""


@dataclass(frozen=True, slots=True)
class _Failure:
    """What could not be loaded, and for which rollout and wish."""

    rollout: Rollout | None
    """None: the rollout file itself cannot be read."""
    wish: Wish
    reasons: dict[int, str]
    """By version; 0 stands for the rollout file."""
    at: float

    def __str__(self) -> str:
        return "; ".join(self.reasons.values())


async def _nothing(name: str, version: int) -> None:
    del name, version


class ModelRepository:
    """Watches the rollouts and keeps their versions loaded.

    Args:
        executor: Where bundles are loaded, and long runs run.
        runs_of: What the runs of a version, by name and number, are reported to: their rows and their seconds.
        clock: Seconds, monotonic.
        on_retired: Called once a version has left and its last call is done.
        on_forgotten: Called ``forget_after_s`` seconds later, unless the version has come back.
    """

    def __init__(
        self,
        settings: Settings,
        metrics: ServingMetrics,
        executor: Executor,
        *,
        runs_of: Callable[[str, int], Callable[[int, float], None]],
        clock: Callable[[], float],
        on_retired: Callable[[str, int], Awaitable[None]] = _nothing,
        on_forgotten: Callable[[str, int], None] = lambda name, version: None,
        forget_after_s: float = FORGET_AFTER_S,
    ) -> None:
        self._settings = settings
        self.metrics = metrics
        self._executor = executor
        self._clock = clock
        self._wishes = wishes_folder(settings)
        self._loader = VersionLoader(settings, executor, runs_of)
        self._served: dict[str, ServedModel] = {}
        self._failures: dict[str, _Failure] = {}
        self._unloaded: dict[str, tuple[Rollout, Wish]] = {}
        self._loading: dict[str, asyncio.Task[None]] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self._retirement = Retirement(
            is_loaded=lambda name, version: name in self._served and version in self._served[name].versions,
            on_retired=on_retired,
            on_forgotten=on_forgotten,
            executor=executor,
            forget_after_s=forget_after_s,
        )

    def model(self, name: str) -> ServedModel:
        """The snapshot of one model.

        Raises:
            NotFoundError: No rollout names it.
            UnavailableError: Its stable version could not be loaded, or it has been unloaded.
        """
        served = self._served.get(name)
        if served is None:
            if name in self._unloaded:
                raise UnavailableError(f"model {name!r} has been unloaded; it answers again once it is loaded")
            if name in self._failures:
                raise UnavailableError(f"model {name!r} cannot answer: {self._failures[name]}")
            known = ", ".join(sorted(self._served)) or "none"
            raise NotFoundError(f"no model {name!r}; served: {known}")
        return served

    def served(self, name: str) -> ServedModel | None:
        """As ``model``; None where it does not answer any more."""
        return self._served.get(name)

    def models(self) -> list[ServedModel]:
        """The snapshot of every model that can answer, by name."""
        return [self._served[name] for name in sorted(self._served)]

    @property
    def ready(self) -> bool:
        """Whether every model that a rollout names can answer with its stable version. One that was unloaded on purpose is
        not waited for, but a server without any model is not ready.
        """
        loaded = bool(self._served) and all(name in self._served for name in self._failures)
        return loaded and all(served.stable.down is None for served in self._served.values())

    def index(self) -> list[IndexEntry]:
        """Every version that is loaded, whether or not it can answer, and every one that was refused or unloaded."""
        entries = [entry for served in self.models() for entry in served.index()]
        for name, (rollout, _) in sorted(self._unloaded.items()):
            entries.extend(IndexEntry(name, v, "UNAVAILABLE", "unloaded") for v in rollout.versions)
        for name, failure in sorted(self._failures.items()):
            loaded = self._served[name].versions if name in self._served else {}
            refused = {v: reason for v, reason in failure.reasons.items() if v and v not in loaded}
            entries.extend(IndexEntry(name, v, "UNAVAILABLE", refused[v]) for v in sorted(refused))
        return entries

    async def load(self, name: str, version: int | None) -> None:
        """Load a version for calls that pin it, or (None, or a version of the rollout) try again at once what the rollout
        names, and lift an unload. In effect here when it returns, and in the other workers a moment later.

        Raises:
            NotFoundError: No rollout names the model, or there is no such version.
            UnavailableError: It cannot be loaded; the message says why.
        """
        rollout = self._rollout(name)
        if version is None or version in rollout.versions:
            await self._ask(name, lambda wish: replace(wish, unloaded=False))
            await self._sync_model(name)
            if (failure := self._failures.get(name)) is not None:
                raise UnavailableError(f"model {name!r} cannot be loaded: {failure}")
            return
        self.model(name)
        async with self._lock(name):
            # Loaded before it is asked for in writing: what is refused here is not tried by the other workers.
            loaded = await self._loaded_extra(name, version)
            await self._ask(name, lambda wish: replace(wish, versions=tuple(sorted({*wish.versions, version}))))
            await self._follow(name, {version: loaded})

    async def unload(self, name: str, version: int | None) -> None:
        """Drop a version that was loaded beside the rollout's, or (None) take the model out of service until it is loaded
        again. Calls in flight are answered.

        Raises:
            NotFoundError: No rollout names the model, or the version is not loaded.
            InvalidRequestError: The rollout names the version.
        """
        rollout = self._rollout(name)
        if version is None:
            await self._ask(name, lambda wish: replace(wish, unloaded=True, versions=()))
        elif version in rollout.versions:
            raise InvalidRequestError(
                f"version {version} of {name!r} is in its rollout, which says what takes traffic: "
                "change the rollout, or unload the whole model"
            )
        elif version not in read_wish(self._wishes, name).versions:
            raise NotFoundError(f"version {version} of {name!r} is not loaded")
        else:
            await self._ask(name, lambda wish: replace(wish, versions=tuple(v for v in wish.versions if v != version)))
        await self._sync_model(name)

    async def watch(self) -> None:
        """Follow the rollout files until cancelled."""
        while True:
            await asyncio.sleep(self._settings.serving.poll_interval_ms / 1000)
            try:
                await self.sync(wait=False)
            except OSError:
                _log.exception("rollouts.unreadable", folder=str(self._settings.rollouts))

    async def sync(self, *, wait: bool = True) -> None:
        """Bring every model to what its rollout says.

        Args:
            wait: Until all is loaded; False: loading goes on beside, and a model that is loading is left to it.
        """
        names = list_rollouts(self._settings.rollouts)
        for name in {*self._served, *self._failures, *self._unloaded} - set(names):
            self._drop(name)
        for name in names:
            if name not in self._loading:
                self._loading[name] = task = asyncio.create_task(self._sync_model(name))
                task.add_done_callback(lambda _, name=name: self._loading.pop(name, None))
        if wait:
            await asyncio.gather(*self._loading.values())

    async def close(self) -> None:
        """End what is being loaded."""
        loading = list(self._loading.values())
        for task in loading:
            task.cancel()
        await asyncio.gather(*loading, return_exceptions=True)
        await self._retirement.close()

    def _rollout(self, name: str) -> Rollout:
        if name not in list_rollouts(self._settings.rollouts):
            raise NotFoundError(f"no rollout names the model {name!r}")
        try:
            return read_rollout(self._settings.rollouts, name)
        except DriftwheelError as error:
            raise UnavailableError(error.message) from None

    def _lock(self, name: str) -> asyncio.Lock:
        """Held while a model is brought to what is asked of it."""
        return self._locks.setdefault(name, asyncio.Lock())

    async def _ask(self, name: str, change: Callable[[Wish], Wish]) -> None:
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._executor, change_wish, self._wishes, name, change)

    def _drop(self, name: str) -> None:
        self._failures.pop(name, None)
        self._unloaded.pop(name, None)
        drop_wish(self._wishes, name)
        if name in self._served:
            self._serve(name, None)
            _log.info("model.dropped", model=name)

    async def _sync_model(self, name: str) -> None:
        async with self._lock(name):
            await self._follow(name, {})

    async def _follow(self, name: str, at_hand: dict[int, LoadedVersion]) -> None:
        """Bring a model to what its rollout and its wish say; ``at_hand`` has been loaded already."""
        rollout, wish = None, NOTHING
        try:
            rollout, wish = read_rollout(self._settings.rollouts, name), read_wish(self._wishes, name)
            if self._is_current(name, rollout, wish):
                return
            if wish.unloaded:
                self._withdraw(name, rollout, wish)
                return
            reasons = await self._load_all(name, rollout, wish, at_hand)
        except Exception as error:  # noqa: BLE001 (a bundle can be damaged in more ways than we know; the others go on)
            reasons = {rollout.stable if rollout else 0: _reason(error)}
        if reasons:
            self._refuse(name, _Failure(rollout, wish, reasons, self._clock()))
        else:
            self._failures.pop(name, None)

    async def _load_all(
        self, name: str, rollout: Rollout, wish: Wish, at_hand: dict[int, LoadedVersion]
    ) -> dict[int, str]:
        """Load what is missing, serving each version as soon as it is there.

        Returns:
            Why the versions that are still missing were refused; the stable one's failure is raised.
        """
        at_hand = {**(self._served[name].versions if name in self._served else {}), **at_hand}
        stable = at_hand.get(rollout.stable) or await self._loader.load(name, rollout.stable)
        reasons: dict[int, str] = {}
        split = Split(rollout)

        def serve() -> None:
            candidate = at_hand.get(rollout.candidate) if rollout.candidate else None
            extras = tuple(at_hand[v] for v in wish.versions if v in at_hand and v not in rollout.versions)
            rivals = tuple(at_hand[v] for v in rollout.rivals if v in at_hand)
            self._serve(name, ServedModel(rollout, split, stable, candidate, extras, wish, rivals))

        # What is at hand serves at once: a promotion or the end of a trial never waits for a bundle to load.
        serve()
        for version in dict.fromkeys([*rollout.on_trial, *wish.versions]):
            if version == rollout.stable or version in at_hand:
                continue
            try:
                trial = rollout.started_at if version in rollout.on_trial else ""
                at_hand[version] = await self._loader.load(name, version, trial)
            except Exception as error:  # noqa: BLE001 (as above)
                reasons[version] = _reason(error)
                if version in rollout.on_trial and is_its_own(error):
                    await tell_judge(self._executor, self._settings.refusals, rollout.about(version), reasons[version])
            else:
                serve()
                if version in rollout.on_trial:
                    await tell_judge(self._executor, self._settings.refusals, rollout.about(version), None)
        return reasons

    def _withdraw(self, name: str, rollout: Rollout, wish: Wish) -> None:
        self._failures.pop(name, None)
        self._unloaded[name] = rollout, wish
        if name in self._served:
            self._serve(name, None)
            _log.info("model.unloaded", model=name)

    def _serve(self, name: str, fresh: ServedModel | None) -> None:
        before = self._served.pop(name, None)
        if fresh is not None:
            self._served[name] = fresh
            self._unloaded.pop(name, None)
        self._show(name, before, fresh)
        staying = fresh.versions if fresh else {}
        for version, loaded in (before.versions if before else {}).items():
            if staying.get(version) is not loaded:
                self._retirement.follow(loaded)
        if fresh is not None:
            rollout = fresh.rollout
            _log.info(
                "rollout.applied",
                model=name,
                revision=rollout.revision,
                stable=rollout.stable,
                candidate=fresh.candidate.version if fresh.candidate else None,
                weight=rollout.weight,
                beside=[loaded.version for loaded in fresh.extras],
            )

    def _is_current(self, name: str, rollout: Rollout, wish: Wish) -> bool:
        """Whether there is nothing to do: it is served in full, or unloaded, or it was refused a moment ago."""
        failure, served = self._failures.get(name), self._served.get(name)
        if failure is not None:
            return (failure.rollout, failure.wish) == (rollout, wish) and self._clock() - failure.at < _RETRY_S
        if name in self._unloaded:
            return self._unloaded[name] == (rollout, wish)
        return served is not None and (served.rollout, served.wish) == (rollout, wish)

    def _refuse(self, name: str, failure: _Failure) -> None:
        before = self._failures.get(name)
        self._failures[name] = failure
        self._unloaded.pop(name, None)
        if before is None or (before.rollout, before.reasons) != (failure.rollout, failure.reasons):
            self.metrics.load_failures.labels(name).inc()
            _log.error("rollout.refused", model=name, reason=str(failure), still_serving=name in self._served)

    async def _loaded_extra(self, name: str, version: int) -> LoadedVersion:
        if (loaded := self.model(name).versions.get(version)) is not None:
            return loaded
        try:
            return await self._loader.load(name, version)
        except NotFoundError:
            raise NotFoundError(f"model {name!r} has no version {version}") from None
        except Exception as error:
            raise UnavailableError(f"version {version} of {name!r} cannot be loaded: {_reason(error)}") from error

    def _show(self, name: str, before: ServedModel | None, after: ServedModel | None) -> None:
        """Bring the gauges from one snapshot to the next."""
        for served, value in ((before, 0), (after, 1)):
            if served is None:
                continue
            for version, arm in served.arms().items():
                self.metrics.loaded.labels(name, str(version), arm).set(value)
            self.metrics.candidate_weight.labels(name).set(served.rollout.weight * value)
        for version, loaded in (after.versions if after else {}).items():
            if before is None or version not in before.versions:
                self._describe(name, loaded)

    def _describe(self, name: str, loaded: LoadedVersion) -> None:
        manifest, batcher = loaded.bundle.manifest, weakref.ref(loaded.batcher)
        self.metrics.model.labels(name, str(loaded.version)).info(
            {"task": manifest.task, "platform": loaded.backend.platform, "run": manifest.training.run_id}
        )

        def queued() -> float:
            # A gauge must not keep a retired version alive.
            return one.queued_rows if (one := batcher()) is not None else 0.0

        self.metrics.queued_rows.labels(name, str(loaded.version)).set_function(queued)


def _reason(error: Exception) -> str:
    return error.message if isinstance(error, DriftwheelError) else f"{type(error).__name__}: {error}"
