"""What is loaded: for each rollout, its stable version and its candidate, switched between two requests.

The event loop reads one immutable snapshot per model. A rollout that changes is worked out beside it (bundles read,
checked, warmed up and proved in a thread) and then takes its place in one assignment. What cannot be loaded is refused with
its reason, and the snapshot that was there goes on.
"""

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field

import structlog

from driftwheel.bundle import read_bundle
from driftwheel.contracts import Arm
from driftwheel.errors import DriftwheelError, NotFoundError, UnavailableError
from driftwheel.rollout import Rollout, list_rollouts, read_rollout
from driftwheel.settings import Settings
from monitoring.metrics import ServingMetrics
from serving.engine import LoadedVersion, load_version
from serving.split import Split

_log = structlog.get_logger()

_RETRY_S = 5.0
"""How long a refused bundle is left alone before it is tried again, in seconds: somebody may have put it right."""


@dataclass(frozen=True, slots=True)
class ServedModel:
    """One model, as it serves right now."""

    rollout: Rollout
    split: Split
    stable: LoadedVersion
    candidate: LoadedVersion | None
    versions: Mapping[int, LoadedVersion] = field(init=False)

    def __post_init__(self) -> None:
        loaded = [self.stable, *([self.candidate] if self.candidate else [])]
        object.__setattr__(self, "versions", {one.version: one for one in loaded})

    def pinned(self, version: int) -> LoadedVersion:
        """The version that the caller asked for.

        Raises:
            NotFoundError: It is not loaded.
        """
        if (loaded := self.versions.get(version)) is None:
            served = ", ".join(map(str, sorted(self.versions)))
            raise NotFoundError(f"model {self.rollout.model!r} has no loaded version {version}; loaded: {served}")
        return loaded

    def route(self, key: bytes) -> tuple[LoadedVersion, Arm]:
        """The version and arm that answer a routing key."""
        if self.candidate is None:
            return self.stable, Arm.STABLE
        arm = self.split.arm(key)
        return (self.candidate if arm is Arm.CANDIDATE else self.stable), arm


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """A version and whether it can answer."""

    name: str
    version: int
    state: str
    reason: str = ""


class ModelRepository:
    """Watches the rollouts and keeps their versions loaded.

    Args:
        executor: Where bundles are loaded, and long runs run.
        clock: Seconds, monotonic.
    """

    def __init__(
        self, settings: Settings, metrics: ServingMetrics, executor: Executor, *, clock: Callable[[], float]
    ) -> None:
        self._settings = settings
        self._metrics = metrics
        self._executor = executor
        self._clock = clock
        self._served: dict[str, ServedModel] = {}
        self._failures: dict[str, tuple[Rollout | None, str, float]] = {}
        self._loading: dict[str, asyncio.Task[None]] = {}

    def model(self, name: str) -> ServedModel:
        """The snapshot of one model.

        Raises:
            NotFoundError: No rollout names it.
            UnavailableError: Its stable version could not be loaded.
        """
        served = self._served.get(name)
        if served is None:
            if name in self._failures:
                raise UnavailableError(f"model {name!r} cannot answer: {self._failures[name][1]}")
            known = ", ".join(sorted(self._served)) or "none"
            raise NotFoundError(f"no model {name!r}; served: {known}")
        return served

    def models(self) -> list[ServedModel]:
        """The snapshot of every model that can answer, by name."""
        return [self._served[name] for name in sorted(self._served)]

    @property
    def ready(self) -> bool:
        """Whether every model that a rollout names can answer."""
        return bool(self._served) and all(name in self._served for name in self._failures)

    def index(self) -> list[IndexEntry]:
        """Every version that is loaded, and every one that was refused."""
        entries = [IndexEntry(m.rollout.model, v, "READY") for m in self.models() for v in sorted(m.versions)]
        for name, (rollout, reason, _) in sorted(self._failures.items()):
            loaded = self._served[name].versions if name in self._served else {}
            wanted = {rollout.stable, rollout.candidate} if rollout else {0}
            entries.extend(
                IndexEntry(name, v, "UNAVAILABLE", reason) for v in sorted(w for w in wanted if w) if v not in loaded
            )
        return entries

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
        for name in {*self._served, *self._failures} - set(names):
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

    def _drop(self, name: str) -> None:
        self._failures.pop(name, None)
        if (served := self._served.pop(name, None)) is not None:
            self._show(served, None)
            _log.info("model.dropped", model=name)

    async def _sync_model(self, name: str) -> None:
        served, rollout = self._served.get(name), None
        try:
            rollout = read_rollout(self._settings.rollouts, name)
            if self._is_current(name, rollout):
                return
            stable = await self._loaded(served, name, rollout.stable)
            if rollout.candidate is not None and (served is None or served.rollout != rollout):
                # What is at hand serves at once: a promotion or the end of a trial never waits for a bundle to load.
                at_hand = served.versions.get(rollout.candidate) if served else None
                self._serve(name, ServedModel(rollout, Split(rollout), stable, at_hand))
            candidate = None
            if rollout.candidate is not None:
                candidate = await self._loaded(self._served.get(name), name, rollout.candidate)
        except Exception as error:  # noqa: BLE001 (a bundle can be damaged in more ways than we know; the others go on)
            self._refuse(name, rollout, error)
            return
        self._failures.pop(name, None)
        fresh = ServedModel(rollout, Split(rollout), stable, candidate)
        if (
            name not in self._served
            or fresh.versions != self._served[name].versions
            or rollout != self._served[name].rollout
        ):
            self._serve(name, fresh)

    def _serve(self, name: str, fresh: ServedModel) -> None:
        self._show(self._served.get(name), fresh)
        self._served[name] = fresh
        rollout = fresh.rollout
        _log.info(
            "rollout.applied",
            model=name,
            revision=rollout.revision,
            stable=rollout.stable,
            candidate=fresh.candidate.version if fresh.candidate else None,
            weight=rollout.weight,
        )

    def _is_current(self, name: str, rollout: Rollout) -> bool:
        """Whether there is nothing to do: it is served in full, or it was refused a moment ago."""
        failure = self._failures.get(name)
        if failure is not None:
            return failure[0] == rollout and self._clock() - failure[2] < _RETRY_S
        return name in self._served and self._served[name].rollout == rollout

    def _refuse(self, name: str, rollout: Rollout | None, error: Exception) -> None:
        reason = error.message if isinstance(error, DriftwheelError) else f"{type(error).__name__}: {error}"
        before = self._failures.get(name)
        self._failures[name] = (rollout, reason, self._clock())
        if before is None or before[:2] != (rollout, reason):
            self._metrics.load_failures.labels(name).inc()
            _log.error("rollout.refused", model=name, reason=reason, still_serving=name in self._served)

    async def _loaded(self, served: ServedModel | None, name: str, version: int) -> LoadedVersion:
        if served is not None and version in served.versions:
            return served.versions[version]
        return await asyncio.get_running_loop().run_in_executor(self._executor, self._load_now, name, version)

    def _load_now(self, name: str, version: int) -> LoadedVersion:
        bundle = read_bundle(self._settings.models, name, version)
        on_run = self._metrics.run_rows.labels(name, str(version)).observe
        return load_version(bundle, self._settings.serving, self._executor, on_run=on_run)

    def _show(self, before: ServedModel | None, after: ServedModel | None) -> None:
        """Bring the gauges from one snapshot to the next."""
        for served, value in ((before, 0), (after, 1)):
            if served is None:
                continue
            name = served.rollout.model
            self._metrics.loaded.labels(name, str(served.stable.version), Arm.STABLE).set(value)
            if served.candidate:
                self._metrics.loaded.labels(name, str(served.candidate.version), Arm.CANDIDATE).set(value)
            self._metrics.candidate_weight.labels(name).set(served.rollout.weight * value)
