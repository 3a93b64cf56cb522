"""Retrains in a Kubernetes cluster, a Job or a TrainJob each, whose pods work on the same home."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

import structlog

from driftwheel.errors import DriftwheelError
from driftwheel.files import is_locked, waiting_lock
from driftwheel.settings import Settings
from driftwheel.wheel.clock import now
from driftwheel.wheel.cluster import PODS, Cluster, Object, condition, object_name
from driftwheel.wheel.job_manifests import Retrain, Work
from driftwheel.wheel.pod_troubles import trouble
from driftwheel.wheel.retraining import RetrainOutcome, record_end, record_start
from monitoring.ledger import Entry, Ledger
from monitoring.retrain import STARTED, Trigger

_MODEL, _REASON, _TRIGGER = "driftwheel/model", "driftwheel/reason", "driftwheel/trigger"
_AT, _AFTER = "driftwheel/asked-at", "driftwheel/after-entry"
"""What an object bears: enough for any process to write down how it ended, if its pods could not."""

_SPARE_S = 600.0
"""How much longer than its deadline one is waited for: it says itself that it is over."""

_log = structlog.get_logger()


class RetrainJobs:
    """Starts ``driftwheel retrain`` in pods, which write the ledger as it does anywhere. Threads may share one, but start one
    retrain at a time.

    An object's name comes from the model and from the end of its newest retrain, so that the same retrain has the same name
    whoever asks for it, before and after a restart: the cluster takes it once. One that ends without a word in the ledger (its
    image is not there, the kernel killed it) gets its entries from here, with the reason that its pods had.

    Args:
        every_s: How often an object is looked at.
        clock: Seconds, monotonic.
    """

    def __init__(
        self,
        settings: Settings,
        cluster: Cluster,
        work: Work,
        *,
        every_s: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._cluster = cluster
        self._work = work
        self._every_s = every_s
        self._clock = clock
        self._closing = threading.Event()
        self._turn = threading.Lock()
        self._followers: dict[str, threading.Thread] = {}
        self._looked_s: dict[str, float] = {}
        self._started: set[str] = set()

    def going_on(self, model: str) -> bool:
        """Whether a retrain of a model is going on, ours or anybody's. One that nobody here knows of is followed from now on.

        Raises:
            DriftwheelError: Kubernetes cannot be reached, or refuses; until it is asked the next time, the answer is no.
        """
        follower = self._followers.get(model)
        if is_locked(self._lease(model)) or (follower is not None and follower.is_alive()):
            return True
        present = self._clock()
        if present < self._looked_s.get(model, present):
            return False  # nothing is lost by it: the cluster takes no second one of a name
        self._looked_s[model] = present + self._every_s
        name = self._name(model)
        if self._cluster.read(self._work.kind, name) is None:
            return False
        self._follow(model, name)
        return True

    def start(self, model: str, *, reason: str, trigger: Trigger) -> str:
        """Start one, or follow the one that another process has started; where what it says can be read.

        Raises:
            ConfigurationError: The cluster has no template for it, or one that is none.
            DriftwheelError: Kubernetes cannot be reached, or refuses.
        """
        name, retrain = self._name(model), Retrain(model=model, reason=reason, trigger=trigger)
        made = self._work.manifest(self._settings, self._cluster, name, retrain, self._annotations(retrain))
        if self._cluster.create(self._work.kind, made):
            self._started.add(name)
        self._follow(model, name)
        return f"the pods' log: kubectl logs --selector {self._work.pod_label}={name}"

    def close(self) -> None:
        """Delete those that are going on and were started here; their pods save a checkpoint, and the next one goes on from
        there.
        """
        self._closing.set()
        for follower in list(self._followers.values()):
            follower.join()
        for name in sorted(self._started):
            try:
                self._cluster.delete(self._work.kind, name)
            except DriftwheelError as error:
                _log.error("retrain.not_deleted", kind=self._work.title, name=name, reason=error.message)

    def _lease(self, model: str) -> Path:
        return self._settings.runtime / f"retrain-{model}.lock"

    def _history(self, model: str) -> list[Entry]:
        return Ledger(self._settings.ledger).entries(model, "retrain")

    def _name(self, model: str) -> str:
        """Another one from the moment on that the ledger has the end of a retrain."""
        ended = [entry for entry in self._history(model) if entry.payload.get("event") != STARTED]
        key = f"{ended[-1].id} {ended[-1].at}" if ended else "the first"
        return object_name("driftwheel-retrain", model, f"{model} {key}")

    def _annotations(self, retrain: Retrain) -> dict[str, str]:
        newest = max((entry.id for entry in self._history(retrain.model)), default=0)
        told = {_MODEL: retrain.model, _REASON: retrain.reason, _TRIGGER: retrain.trigger}
        return {**told, _AT: now(), _AFTER: str(newest)}

    def _follow(self, model: str, name: str) -> None:
        with self._turn:
            follower = self._followers.get(model)
            if follower is None or not follower.is_alive():
                follower = threading.Thread(target=self._see_through, args=(model, name), daemon=True)
                self._followers[model] = follower
                follower.start()

    def _see_through(self, model: str, name: str) -> None:
        """Look at an object until it has ended, has been deleted, or this process goes on without it."""
        since, why = self._clock(), ""
        while not self._closing.is_set():
            try:
                found = self._cluster.read(self._work.kind, name)
                if found is None:
                    _log.warning("retrain.deleted", model=model, kind=self._work.title, name=name)
                    break
                # Pods may be gone when their Job has failed: what was last wrong with them is kept.
                why = trouble(self._cluster.bearing(PODS, self._work.pod_label, name)) or why
                if self._ended(found, self._clock() - since, why):
                    break
            except DriftwheelError as error:
                _log.warning("retrain.not_seen", model=model, kind=self._work.title, name=name, reason=error.message)
            self._closing.wait(self._every_s)
        else:
            return
        self._started.discard(name)

    def _ended(self, found: Object, waited_s: float, why: str) -> bool:
        """Whether it is over; how it ended is then in the ledger."""
        name, deadline_s = found["metadata"]["name"], found["spec"]["activeDeadlineSeconds"]
        if "deletionTimestamp" in found["metadata"]:
            return False  # its pods save a checkpoint, and then it is gone
        if (failed := condition(found, "Failed")) is not None:
            said = [failed.get("reason", ""), failed.get("message", ""), why]
            self._settle(found, f"{self._work.title} {name} failed: {'; '.join(filter(None, said))}")
            return True
        if condition(found, "Complete") is not None:
            self._settle(found, f"{self._work.title} {name} is complete, but its end is not on record in this home")
            return True
        if waited_s > deadline_s + _SPARE_S:
            self._cluster.delete(self._work.kind, name)
            said = f"{self._work.title} {name} took longer than its {deadline_s} s, and did not say so"
            self._settle(found, f"{said}{why and '; '}{why}")
            return True
        return False

    def _settle(self, found: Object, fault: str) -> None:
        """Write down that a retrain failed, unless its pods wrote down how it ended."""
        name, told = found["metadata"]["name"], found["metadata"]["annotations"]
        model, reason, trigger = told[_MODEL], told[_REASON], told[_TRIGGER]
        with waiting_lock(self._settings.runtime / f"retrain-{model}-end.lock"):
            if name != self._name(model):
                _log.info("retrain.ended", model=model, kind=self._work.title, name=name)
                return
            if is_locked(self._lease(model)):  # it made way for one by hand, whose end the ledger will have
                _log.warning("retrain.ended", model=model, kind=self._work.title, name=name, fault=fault)
                return
            opened = [entry for entry in self._history(model) if entry.id > int(told[_AFTER])]
            started = opened[-1].at if opened else told[_AT]
            if not opened:  # it counts towards the daily cap, however early it failed
                record_start(self._settings, model, started, reason, trigger)
            failed = RetrainOutcome(outcome=f"failed: {fault}", result="failed")
            record_end(self._settings, model, started, reason, trigger, failed)
        _log.error("retrain.ended", model=model, kind=self._work.title, name=name, fault=fault)
