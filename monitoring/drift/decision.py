"""The drift decision: scored windows in, what to do out. The same scores always get the same decision."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
import numpy as np

from driftwheel.settings import DriftSettings
from monitoring.drift.calibration import holm
from monitoring.drift.scores import Group, MonitorScore, QualityScore, Recommended, WindowScores

Status = Literal["not enough rows", "stable", "drift", "broken data"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MonitorOutcome:
    """One monitor over all windows looked at. ``statistic``, ``p_value`` and ``why`` are those of the newest window that
    it alarms in, or of the newest.
    """

    monitor: str
    column: str
    group: Group
    drifted: bool
    alarms: int
    windows: int
    statistic: float
    p_value: float
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftDecision:
    """What the newest windows say together."""

    status: Status
    summary: str
    """One sentence."""
    input_drift: bool = False
    prediction_drift: bool = False
    quality_down: bool = False
    estimated_down: bool = False
    """The model's own probabilities promise more loss than on the reference. Shown, and no reason to retrain: labels are."""
    schema_broken: bool = False
    retrain: bool = False
    answered: bool = False
    """What drifts has been so since a retrain made the version: another one would have nothing new to answer."""
    windows: int = 0
    outcomes: tuple[MonitorOutcome, ...] = ()
    """Drifted monitors first, then by p-value."""
    faults: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Before:
    """What drifted in the decision before, about the same version. It goes on while any window still shows it: what stands
    at the threshold would come and go with each look.
    """

    monitors: tuple[str, ...] = ()
    quality_down: bool = False

    @classmethod
    def of(cls, payload: Any, *, version: int) -> "Before":
        """What the ledger payload of the decision before tells; nothing where it is about another version."""
        if payload["version"] != version:
            return cls()
        decision = payload["decision"]
        drifted = tuple(outcome["monitor"] for outcome in decision["outcomes"] if outcome["drifted"])
        return cls(monitors=drifted, quality_down=decision["quality_down"])


NOTHING_BEFORE = Before()


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftRecord:
    """Everything that a decision followed from: what the ledger keeps, and ``replay`` decides again."""

    version: int
    windows: tuple[WindowScores, ...]
    settings: dict[str, Any]
    decision: DriftDecision
    recommended: Recommended | None = None
    before: Before = NOTHING_BEFORE


def decide_drift(
    windows: Sequence[WindowScores], settings: DriftSettings, before: Before = NOTHING_BEFORE
) -> DriftDecision:
    """Decide about scored windows, oldest first; of more than ``settings.windows`` the newest count. Of fewer than
    ``settings.windows_needed`` nothing but broken data can be told.

    A monitor alarms in a window by Holm's procedure over the window's monitors at ``settings.alpha``; it drifts when it
    alarms in ``settings.windows_needed`` windows. Quality is down when it is down in as many. Retrain when quality is
    down, or when inputs and predictions both drift; never when any of the windows is broken. Of a version that a retrain
    made, only when inputs drift, or quality is down, beside the first rows that it met too: a shift gets one retrain.

    What drifted ``before`` goes on drifting while it alarms in one window. That starts no retrain: only what the windows
    show without it does.
    """
    windows = windows[-settings.windows :]
    if not windows:
        within = f" within {settings.window_hours:g} hours" if settings.window_hours is not None else ""
        return DriftDecision(status="not enough rows", summary=f"not enough rows: under {settings.window_rows}{within}")
    outcomes = _outcomes([window.scores for window in windows], settings, before.monitors)
    groups = {outcome.group for outcome in outcomes if outcome.drifted}
    called = {outcome.group for outcome in outcomes if outcome.alarms >= settings.windows_needed}
    lows = _lows([window.quality for window in windows])
    faults = tuple(dict.fromkeys(fault for window in windows for fault in window.faults))
    low = lows >= settings.windows_needed
    quality_down = low or (before.quality_down and lows > 0)
    both = {"input", "prediction"} <= called
    wanted = (low and not _quality_answered(windows, settings)) or (both and not _inputs_answered(windows, settings))
    estimated = [window.estimated for window in windows if window.estimated is not None]
    estimated_down = sum(one.outcome == "down" for one in estimated) >= settings.windows_needed
    retrain, answered = not faults and wanted, (low or both) and not wanted
    status = _status(len(windows), settings, broken=bool(faults), drift=bool(groups) or quality_down)
    summary = (
        _too_few(len(windows), lows, outcomes, settings)
        if status == "not enough rows"
        else _summary(status, outcomes, faults, quality_down=quality_down, retrain=retrain, answered=answered)
    )
    if estimated_down and status in ("stable", "drift"):
        more = max(one.at_least for one in estimated)
        summary += f"; without labels, a loss at least {more:.0%} above the reference's is to be expected"
    return DriftDecision(
        status=status,
        summary=summary,
        input_drift="input" in groups,
        prediction_drift="prediction" in groups,
        quality_down=quality_down,
        estimated_down=estimated_down,
        schema_broken=bool(faults),
        retrain=retrain,
        answered=answered,
        windows=len(windows),
        outcomes=outcomes,
        faults=faults,
    )


def _inputs_answered(windows: Sequence[WindowScores], settings: DriftSettings) -> bool:
    scores = [window.since_first for window in windows if window.since_first is not None]
    return len(scores) == len(windows) and not any(outcome.drifted for outcome in _outcomes(scores, settings))


def _quality_answered(windows: Sequence[WindowScores], settings: DriftSettings) -> bool:
    known = all(window.since_first is not None for window in windows)
    return known and _lows([window.quality_since_first for window in windows]) < settings.windows_needed


def _lows(qualities: Sequence[QualityScore | None]) -> int:
    return sum(quality is not None and quality.outcome == "down" for quality in qualities)


def _status(windows: int, settings: DriftSettings, *, broken: bool, drift: bool) -> Status:
    if broken:
        return "broken data"
    if windows < settings.windows_needed:
        return "not enough rows"
    return "drift" if drift else "stable"


def _too_few(windows: int, lows: int, outcomes: Sequence[MonitorOutcome], settings: DriftSettings) -> str:
    alarming = [outcome.monitor for outcome in outcomes if outcome.alarms]
    seen = [f"alarms so far: {', '.join(alarming)}" if alarming else "no monitor alarms so far"]
    seen += ["quality is down so far"] if lows else []
    return f"not enough rows: {windows} of the {settings.windows_needed} windows needed; {'; '.join(seen)}"


def _outcomes(
    windows: Sequence[Sequence[MonitorScore]], settings: DriftSettings, before: Collection[str] = ()
) -> tuple[MonitorOutcome, ...]:
    """Of the scores of each window, and of the monitors that drifted before."""
    seen: dict[str, list[tuple[MonitorScore, bool]]] = {}
    for scores in windows:
        rejected = holm(np.array([score.p_value for score in scores]), settings.alpha)
        for score, alarm in zip(scores, rejected, strict=True):
            seen.setdefault(score.monitor, []).append((score, bool(alarm)))
    outcomes = [
        _outcome(scores, needed=1 if monitor in before else settings.windows_needed) for monitor, scores in seen.items()
    ]
    return tuple(sorted(outcomes, key=lambda outcome: (not outcome.drifted, outcome.p_value, outcome.monitor)))


def _outcome(scores: Sequence[tuple[MonitorScore, bool]], *, needed: int) -> MonitorOutcome:
    alarms = [score for score, alarm in scores if alarm]
    shown = alarms[-1] if alarms else scores[-1][0]
    return MonitorOutcome(
        monitor=shown.monitor,
        column=shown.column,
        group=shown.group,
        drifted=len(alarms) >= needed,
        alarms=len(alarms),
        windows=len(scores),
        statistic=shown.statistic,
        p_value=shown.p_value,
        why=shown.why,
    )


def _summary(
    status: Status,
    outcomes: Sequence[MonitorOutcome],
    faults: Sequence[str],
    *,
    quality_down: bool,
    retrain: bool,
    answered: bool,
) -> str:
    if faults:
        return f"broken data: {'; '.join(faults[:3])}"
    if status == "stable":
        return "stable: no monitor drifts, quality is not shown to be down"
    parts = ["quality is down"] if quality_down else []
    drifted = [outcome for outcome in outcomes if outcome.drifted]
    parts += [f"{outcome.monitor} drifts ({outcome.why})" for outcome in drifted[:3]]
    parts += [f"and {len(drifted) - 3} more"] if len(drifted) > 3 else []
    why_not = (
        "a retrain made this version, and it has been so since"
        if answered
        else "inputs and predictions do not both drift in the newest windows"
    )
    return f"drift: {'; '.join(parts)}; {'retrain' if retrain else f'no retrain: {why_not}'}"


def record(
    windows: Sequence[WindowScores],
    settings: DriftSettings,
    decision: DriftDecision,
    *,
    version: int,
    recommended: Recommended | None = None,
    before: Before = NOTHING_BEFORE,
) -> Any:
    """The ledger payload of a decision about a version."""
    kept = DriftRecord(
        version=version,
        windows=tuple(windows),
        settings=settings.model_dump(),
        decision=decision,
        recommended=recommended,
        before=before,
    )
    return msgspec.to_builtins(kept)


def replay(payload: Any) -> tuple[DriftDecision, DriftDecision]:
    """The decision that a ledger payload holds, and the one that its scores get today."""
    kept = msgspec.convert(payload, DriftRecord)
    return kept.decision, decide_drift(kept.windows, DriftSettings.model_validate(kept.settings), kept.before)
