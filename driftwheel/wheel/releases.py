"""Rollout changes by hand, written into the ledger, with the registry's aliases following."""

from typing import Literal

from driftwheel import rollout as rollouts
from driftwheel.bundle import read_bundle
from driftwheel.errors import RolloutError
from driftwheel.rollout import Rollout
from driftwheel.settings import Settings
from driftwheel.wheel.archive import refuse_archived, whoami
from driftwheel.wheel.clock import now
from driftwheel.wheel.judging import record_rollout
from driftwheel.wheel.lifecycle import check_compatible, sync_aliases
from monitoring.ledger import Ledger

Change = Literal["step", "pause", "resume", "promote", "abort"]


def parse_steps(text: str) -> tuple[float, ...]:
    """Shares of traffic from a list with commas.

    Raises:
        RolloutError: One of them is not a number.
    """
    try:
        return tuple(float(word) for word in text.split(","))
    except ValueError:
        raise RolloutError(
            f"--steps must be shares of traffic with commas, for example 0.05,0.5,1; got {text!r}"
        ) from None


def start_trial(
    settings: Settings,
    model: str,
    version: int,
    *,
    steps: tuple[float, ...],
    by: str,
    shadow: float | None = None,
    rivals: tuple[int, ...] = (),
) -> Rollout:
    """Put a version on trial, or several at once, after their bundles have been checked.

    Raises:
        NotFoundError: It has no bundle.
        BundleError: Its bundle is damaged.
        RolloutError: It is archived, there is nothing to compare it with, it cannot answer the same requests, or another
            candidate is on trial.
    """
    for one in (version, *rivals):
        refuse_archived(settings, model, one)
        check_compatible(settings, read_bundle(settings.models, model, one))
    changed = rollouts.start_candidate(
        settings.rollouts, model, version, rivals=rivals, steps=steps, shadow=shadow, by=by, now=now()
    )
    return _recorded(settings, changed, by=by)


def put_in_service(settings: Settings, model: str, version: int) -> Rollout:
    """Serve a version alone, after its bundle has been checked.

    Raises:
        NotFoundError: It has no bundle.
        BundleError: Its bundle is damaged.
        RolloutError: It is archived.
    """
    by = "canary promote"
    refuse_archived(settings, model, version)
    read_bundle(settings.models, model, version)
    return _recorded(settings, rollouts.serve_stable(settings.rollouts, model, version, by=by, now=now()), by=by)


def change(settings: Settings, model: str, kind: Change, *, version: int | None = None) -> Rollout:
    """Change a trial.

    Args:
        version: Of an abort: the only one to drop of those on trial.

    Raises:
        RolloutError: There is no candidate, or ``version`` is not on trial.
    """
    by = f"canary {kind}"
    folder = settings.rollouts
    if kind == "step":
        changed = rollouts.advance(folder, model, by=by, now=now())
    elif kind == "promote":
        changed = rollouts.promote(folder, model, by=by, now=now())
    elif kind == "abort":
        versions = None if version is None else [version]
        changed = rollouts.abort(folder, model, by=by, now=now(), versions=versions)
    else:
        changed = rollouts.set_paused(folder, model, paused=kind == "pause", by=by, now=now())
    return _recorded(settings, changed, by=by)


def _recorded(settings: Settings, rollout: Rollout, *, by: str) -> Rollout:
    record_rollout(Ledger(settings.ledger), rollout, by=by, who=whoami())
    sync_aliases(settings, rollout)
    return rollout
