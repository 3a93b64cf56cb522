"""A rollout: which version serves, which one is on trial, and how much traffic it gets. One small file per model.

The command line and the judge write it, servers watch it. Every write is atomic and raises ``revision`` by one, and a
writer says which revision its decision was made on, so that two writers cannot undo each other unseen.
"""

import dataclasses
import secrets
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from driftwheel.errors import NotFoundError, RolloutError
from driftwheel.files import waiting_lock, write_atomically
from driftwheel.names import check_name

State = Literal["stable", "running", "paused"]

STEPS_WITHOUT_SHADOW = (0.01, 0.05, 0.25, 0.50, 1.0)

DEFAULT_STEPS = (0.0, *STEPS_WITHOUT_SHADOW)
"""The share of traffic that a candidate gets, step by step. At 0, which only the first can be, it answers copies of requests,
in shadow. At 1.0 it is promoted."""

DEFAULT_SHADOW = 0.1
"""The share of traffic that is copied to a candidate that gets none itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """The content of a rollout file.

    Without a candidate: ``state`` is ``stable``, ``candidate`` is None and ``weight`` is 0.
    """

    model: str
    stable: int
    candidate: int | None = None
    weight: float = 0.0
    """The candidate's share of traffic, 0 to 1."""
    steps: tuple[float, ...] = STEPS_WITHOUT_SHADOW
    step: int = 0
    """The position in ``steps`` that ``weight`` is at."""
    salt: str = ""
    """Hashed with the routing key. A new one for each rollout, so that the same users are not always the first."""
    state: State = "stable"
    revision: int = 0
    updated_at: str = ""
    updated_by: str = ""
    started_at: str = ""
    """When the candidate began; evidence from before does not count."""
    stepped_at: str = ""
    split_at: str = ""
    """When the candidate first got traffic of its own; empty where that was the start, or is still to come."""
    shadow: float = 0.0
    """The share of traffic that is control's and copied to the candidate while its weight is 0. Above 0, control's requests
    are copied at the later steps too, so that both versions are known to have answered the same."""
    rivals: tuple[int, ...] = ()
    """Further versions on trial, each with a share as large as the candidate's."""
    began: tuple[int, ...] = ()
    """Where several were on trial at the start: all of them, in order. Each keeps the place in the split that it began with."""

    def __post_init__(self) -> None:
        self._check_versions()
        if not 0.0 <= self.weight <= 1.0:
            raise ValueError(f"weight must be between 0 and 1, not {self.weight}")
        if self.candidate is None and (self.weight != 0.0 or self.state != "stable"):
            raise ValueError("a rollout without a candidate has weight 0 and state 'stable'")
        if self.candidate is not None and self.state == "stable":
            raise ValueError("a rollout with a candidate is 'running' or 'paused'")
        if not self.steps or list(self.steps) != sorted(set(self.steps)) or self.steps[0] < 0 or self.steps[-1] > 1:
            raise ValueError(f"steps must rise from 0 (shadow) or more to at most 1, not {self.steps}")
        if self.steps[-1] <= 0:
            raise ValueError("steps must end above 0: a candidate in shadow alone is never in service")
        if not 0.0 <= self.shadow <= 1.0:
            raise ValueError(f"shadow must be between 0 and 1, not {self.shadow}")
        if not 0 <= self.step < len(self.steps):
            raise ValueError(f"step must be a position in steps, not {self.step}")
        if self.weight > self.room:
            raise ValueError(f"{len(self.on_trial)} candidates may have {self.room:.2%} each, not {self.weight:.2%}")

    def _check_versions(self) -> None:
        if self.rivals and self.candidate is None:
            raise ValueError("there are rivals, and no candidate")
        if min(self.versions) < 1:
            raise ValueError("versions count from 1")
        if len(set(self.versions)) < len(self.versions):
            raise ValueError(f"each version can be there once, not {self.versions}")
        if not set(self.on_trial) <= set(self.began or self.on_trial[:1]):
            raise ValueError(f"began must name all versions on trial, not {self.began}")

    @property
    def on_trial(self) -> tuple[int, ...]:
        """The candidate and its rivals."""
        return () if self.candidate is None else (self.candidate, *self.rivals)

    @property
    def versions(self) -> tuple[int, ...]:
        """All that may be asked, stable first."""
        return (self.stable, *self.on_trial)

    @property
    def room(self) -> float:
        """The largest share that each version on trial can have: control needs one too, as long as there are several."""
        return 1 / (len(self.began) + 1) if self.rivals else 1.0

    def about(self, version: int) -> "Rollout":
        """The rollout as one of the versions on trial sees it: its own, beside stable."""
        return dataclasses.replace(self, candidate=version, rivals=())


def rollout_path(rollouts: Path, model: str) -> Path:
    """Where a model's rollout file lies."""
    return rollouts / f"{check_name(model)}.json"


def decode_rollout(content: bytes, *, source: Path) -> Rollout:
    """Parse a rollout file.

    Raises:
        RolloutError: It is damaged.
    """
    try:
        return msgspec.json.decode(content, type=Rollout)
    except (msgspec.MsgspecError, ValueError) as error:
        raise RolloutError(f"rollout file {source} cannot be used: {error}") from None


def read_rollout(rollouts: Path, model: str) -> Rollout:
    """Read a model's rollout.

    Raises:
        NotFoundError: The model has none yet.
        RolloutError: The file is damaged.
    """
    path = rollout_path(rollouts, model)
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise NotFoundError(f"model {model!r} has no rollout at {path}") from None
    return decode_rollout(content, source=path)


def list_rollouts(rollouts: Path) -> list[str]:
    """The names of the models that have a rollout."""
    return sorted(path.stem for path in rollouts.glob("*.json") if not path.name.startswith("."))


def change_rollout(
    rollouts: Path,
    model: str,
    change: Callable[[Rollout | None], Rollout],
    *,
    by: str,
    now: str,
    revision: int | None = None,
) -> Rollout:
    """Apply ``change`` to a model's rollout (None where there is none yet) and write what it returns.

    Args:
        by: Who asks: a command or a verdict's id.
        now: The time, ISO 8601.
        revision: The revision that the caller's decision was made on; None: whatever is there.

    Raises:
        RolloutError: The rollout has moved on from ``revision``, or ``change`` refuses.
    """
    path = rollout_path(rollouts, model)
    with waiting_lock(path.with_suffix(".lock")):
        current = decode_rollout(path.read_bytes(), source=path) if path.exists() else None
        found = current.revision if current else 0
        if revision is not None and revision != found:
            raise RolloutError(
                f"the rollout of {model} moved from revision {revision} to {found} in the meantime; look again"
            )
        changed = dataclasses.replace(change(current), revision=found + 1, updated_at=now, updated_by=by)
        write_atomically(path, msgspec.json.format(msgspec.json.encode(changed), indent=2))
    return changed


def _with_candidate(current: Rollout | None, model: str) -> tuple[Rollout, int]:
    if current is None or current.candidate is None:
        raise RolloutError(f"model {model!r} has no candidate", hint=f"driftwheel canary start {model} VERSION")
    return current, current.candidate


def serve_stable(
    rollouts: Path, model: str, version: int, *, by: str, now: str, revision: int | None = None
) -> Rollout:
    """Serve ``version`` alone: the first version of a model, or a rollback by hand."""
    alone = Rollout(model=model, stable=version)
    return change_rollout(rollouts, model, lambda _: alone, by=by, now=now, revision=revision)


def start_candidate(
    rollouts: Path,
    model: str,
    version: int,
    *,
    rivals: tuple[int, ...] = (),
    steps: tuple[float, ...] = STEPS_WITHOUT_SHADOW,
    shadow: float | None = None,
    by: str,
    now: str,
) -> Rollout:
    """Put ``version`` on trial at the first step.

    Args:
        rivals: Further versions, on trial at the same time.
        shadow: The share of traffic that is copied while the candidate gets none; 0: no request is ever copied; None:
            ``DEFAULT_SHADOW`` where the first step is 0, else 0.

    Raises:
        RolloutError: There is no stable version, it is ``version``, or another candidate is on trial.
    """

    def change(current: Rollout | None) -> Rollout:
        if current is None:
            raise RolloutError(
                f"model {model!r} serves no version yet", hint=f"driftwheel canary promote {model} {version}"
            )
        if current.candidate is not None:
            raise RolloutError(
                f"version {current.candidate} of {model!r} is on trial already",
                hint=f"driftwheel canary status {model}, then promote or abort it",
            )
        if current.stable in (version, *rivals):
            raise RolloutError(f"version {current.stable} of {model!r} is the stable version already")
        copied = (DEFAULT_SHADOW if steps and steps[0] == 0 else 0.0) if shadow is None else shadow
        if steps and steps[0] == 0 and not copied:
            raise ValueError("the steps begin in shadow (0), so shadow must be the share of traffic to copy, not 0")
        return Rollout(
            model=model,
            stable=current.stable,
            candidate=version,
            rivals=rivals,
            began=(version, *rivals) if rivals else (),
            weight=steps[0],
            steps=steps,
            shadow=copied,
            salt=secrets.token_hex(8),
            state="running",
            started_at=now,
            stepped_at=now,
        )

    try:
        return change_rollout(rollouts, model, change, by=by, now=now)
    except ValueError as error:
        several = ", ".join(map(str, (version, *rivals)))
        raise RolloutError(f"cannot start version {several} of {model!r}: {error}") from None


def advance(rollouts: Path, model: str, *, by: str, now: str, revision: int | None = None) -> Rollout:
    """Give the candidate the next step's share, and its rivals too; at the last step nothing changes but the revision.

    Raises:
        RolloutError: There is no candidate, or the next share is larger than there is room for so many.
    """

    def change(current: Rollout | None) -> Rollout:
        rollout, _ = _with_candidate(current, model)
        step = min(rollout.step + 1, len(rollout.steps) - 1)
        if rollout.steps[step] > rollout.room:
            raise RolloutError(
                f"{len(rollout.on_trial)} candidates of {model!r} have no room for {rollout.steps[step]:.2%} each",
                hint=f"driftwheel canary abort {model} VERSION drops one",
            )
        split_at = now if rollout.weight == 0 else rollout.split_at
        return dataclasses.replace(rollout, step=step, weight=rollout.steps[step], stepped_at=now, split_at=split_at)

    return change_rollout(rollouts, model, change, by=by, now=now, revision=revision)


def set_paused(rollouts: Path, model: str, *, paused: bool, by: str, now: str) -> Rollout:
    """Hold the candidate at its share (the judge takes no step), or let it go on."""

    def change(current: Rollout | None) -> Rollout:
        rollout, _ = _with_candidate(current, model)
        return dataclasses.replace(rollout, state="paused" if paused else "running")

    return change_rollout(rollouts, model, change, by=by, now=now)


def promote(rollouts: Path, model: str, *, by: str, now: str, revision: int | None = None) -> Rollout:
    """Make the candidate the stable version.

    Raises:
        RolloutError: There is none, or there are several.
    """

    def change(current: Rollout | None) -> Rollout:
        rollout, candidate = _with_candidate(current, model)
        if rollout.rivals:
            several = ", ".join(map(str, rollout.on_trial))
            raise RolloutError(
                f"versions {several} of {model!r} are on trial; say which",
                hint=f"driftwheel canary promote {model} VERSION",
            )
        return Rollout(model=model, stable=candidate)

    return change_rollout(rollouts, model, change, by=by, now=now, revision=revision)


def abort(
    rollouts: Path,
    model: str,
    *,
    by: str,
    now: str,
    revision: int | None = None,
    versions: Collection[int] | None = None,
) -> Rollout:
    """Drop versions that are on trial; None: all. Their users get stable again, and what is left goes on.

    Raises:
        RolloutError: There is no candidate, or one of ``versions`` is not on trial.
    """

    def change(current: Rollout | None) -> Rollout:
        rollout, _ = _with_candidate(current, model)
        dropped = set(rollout.on_trial if versions is None else versions)
        if strangers := sorted(dropped - set(rollout.on_trial)):
            raise RolloutError(f"version {strangers[0]} of {model!r} is not on trial")
        left = tuple(version for version in rollout.on_trial if version not in dropped)
        if not left:
            return Rollout(model=model, stable=rollout.stable)
        return dataclasses.replace(rollout, candidate=left[0], rivals=left[1:])

    return change_rollout(rollouts, model, change, by=by, now=now, revision=revision)
