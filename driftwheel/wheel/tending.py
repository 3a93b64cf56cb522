"""The loop that keeps the wheel turning: drift checks, scheduled retrains, and looks of the judge, each when it is due."""

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from datetime import timedelta

import structlog

from driftwheel.bundle import bundle_folder, read_manifest
from driftwheel.errors import DriftwheelError
from driftwheel.files import exclusive_lock
from driftwheel.rollout import Rollout, list_rollouts, read_rollout
from driftwheel.settings import Settings
from driftwheel.wheel.clock import now
from driftwheel.wheel.judging import look
from driftwheel.wheel.lifecycle import current_rollout
from driftwheel.wheel.retrain_processes import RetrainProcesses
from driftwheel.wheel.retrain_runner import RetrainRunner, runner_for
from driftwheel.wheel.retraining import permission, permission_without_drift
from driftwheel.wheel.watching import check_drift
from monitoring.ledger import Ledger
from monitoring.retrain import Trigger
from monitoring.segments import moment

_log = structlog.get_logger()


class Tending:
    """Looks after the models in service. Call ``look`` often; it does what is due, and ends nothing but retrains.

    A model with a candidate on trial gets looks of the judge, one without gets drift checks, one that is being retrained
    is left alone.

    Args:
        models: Those to look after; none named: all that have a rollout when it looks.
        retrain: Start retrains: where a drift decision wants one, and every ``retrain.every_days``; both as the policy allows.
        judge: Let the judge look at candidates, and act on its verdicts.
        say: Told of what was decided, in a line for people.
        clock: Seconds, monotonic.
        retrains: Who does retrains; as the settings have it unless given.

    Raises:
        ConfigurationError: ``retrain.runner`` needs a cluster, and this is no pod with a service account.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        models: Sequence[str] = (),
        retrain: bool,
        judge: bool,
        say: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
        retrains: RetrainRunner | None = None,
    ) -> None:
        self._settings = settings
        self._models = tuple(models)
        self._retrain = retrain
        self._judge = judge
        self._say = say
        self._clock = clock
        # Whoever only looks needs no cluster: the lease says whether a retrain is going on.
        self._retrains = retrains or (runner_for(settings) if retrain else RetrainProcesses(settings))
        self._next_s: dict[tuple[str, str], float] = {}
        self._said: dict[str, str] = {}

    def look(self) -> None:
        """Do what is due. What goes wrong with one model is logged, and keeps nobody from the others."""
        for model in self._models or list_rollouts(self._settings.rollouts):
            try:
                self._look_after(model)
            except (DriftwheelError, OSError) as error:
                _log.error("tending.failed", model=model, reason=str(error))

    def close(self) -> None:
        """End the retrains that it started; each saves a checkpoint, and the next one goes on from there."""
        self._retrains.close()

    def _look_after(self, model: str) -> None:
        rollout = current_rollout(self._settings, model)
        if rollout is None or self._retrains.going_on(model):
            return
        if rollout.candidate is None:
            if self._due(model, "drift", self._settings.drift.check_every_s):
                self._check(model, rollout)
        elif self._judge and self._due(model, "judge", self._settings.judge.look_every_s):
            verdict, _ = look(self._settings, model)
            about = f"version {', '.join(map(str, rollout.on_trial))} on trial: "
            begun = self._said.get(model, "").startswith(about)
            if verdict.decision != "HOLD" or not begun:  # a trial holds for days, and every look counts differently
                self._tell(model, about + verdict.summary)

    def _due(self, model: str, what: str, every_s: float) -> bool:
        present = self._clock()
        if present < self._next_s.get((model, what), present):
            return False
        self._next_s[model, what] = present + every_s
        return True

    def _check(self, model: str, rollout: Rollout) -> None:
        decision = check_drift(self._settings, model, html=False).decision
        self._tell(model, f"version {rollout.stable} in service: {decision.summary}")
        if not self._retrain:
            return
        verdict = permission(self._settings, model, decision)
        if verdict.allowed:
            self._start(model, f"drift job: {verdict.reason}", "drift")
        elif decision.retrain:
            self._tell(model, f"not retrained: {verdict.reason}")
        elif (reason := self._overdue(model, rollout.stable)) is not None:
            verdict = permission_without_drift(self._settings, model, reason)
            if verdict.allowed:
                self._start(model, reason, "schedule")
            else:
                self._tell(model, f"not retrained on schedule: {verdict.reason}")

    def _overdue(self, model: str, version: int) -> str | None:
        """Why the schedule wants a retrain; None where it does not. One that found nothing better counts as well."""
        every_days = self._settings.retrain.every_days
        if every_days is None:
            return None
        newest = [entry.at for entry in Ledger(self._settings.ledger).latest(model, "retrain")]
        made = read_manifest(bundle_folder(self._settings.models, model, version)).created_at
        last = max(moment(at) for at in [made, *newest])
        if moment(now()) - last < timedelta(days=every_days):
            return None
        return f"the last training was at {last:%Y-%m-%d %H:%M} UTC, and every {every_days:g} days there is to be one"

    def _start(self, model: str, reason: str, trigger: Trigger) -> None:
        words = self._retrains.start(model, reason=reason, trigger=trigger)
        self._tell(model, f"retraining ({reason}); what it says is in {words}")

    def _tell(self, model: str, what: str) -> None:
        """Say it, unless that was the last thing that was said of the model."""
        if self._said.get(model) != what:
            self._said[model] = what
            self._say(f"{model}: {what}")


@contextmanager
def tending(
    settings: Settings, say: Callable[[str], None], *, models: Sequence[str] = (), retrain: bool, judge: bool
) -> Generator[Tending]:
    """The home's only loop; the retrains that it started end with the block. Arguments as ``Tending`` has them.

    Raises:
        BusyError: Another process tends this home.
        NotFoundError: One of ``models`` has no version in service.
        ConfigurationError: ``retrain.runner`` needs a cluster, and this is no pod with a service account.
    """
    for model in models:
        read_rollout(settings.rollouts, model)
    with exclusive_lock(settings.runtime / "tending.lock", purpose=f"watching the models of {settings.home}"):
        made = Tending(settings, models=models, retrain=retrain, judge=judge, say=say)
        try:
            yield made
        finally:
            made.close()
