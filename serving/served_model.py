"""The snapshot of one model that requests are answered from."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from driftwheel.contracts import Arm
from driftwheel.errors import NotFoundError, UnavailableError
from driftwheel.rollout import Rollout
from serving.engine import LoadedVersion
from serving.split import Split
from serving.versions import Pin
from serving.wishes import NOTHING, Wish


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """A version and whether it can answer."""

    name: str
    version: int
    state: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class ServedModel:
    """One model, as it serves right now."""

    rollout: Rollout
    split: Split
    stable: LoadedVersion
    candidate: LoadedVersion | None
    extras: tuple[LoadedVersion, ...] = ()
    """Loaded beside what the rollout names; calls that pin them are answered, no others."""
    wish: Wish = NOTHING
    rivals: tuple[LoadedVersion, ...] = ()
    """Loaded ones of the rollout's further candidates."""
    on_trial: Mapping[int, LoadedVersion] = field(init=False)
    """The candidate and its rivals, as far as they are loaded."""
    versions: Mapping[int, LoadedVersion] = field(init=False)

    def __post_init__(self) -> None:
        tried = [*([self.candidate] if self.candidate else []), *self.rivals]
        object.__setattr__(self, "on_trial", {one.version: one for one in tried})
        loaded = [*self.extras, self.stable, *tried]
        object.__setattr__(self, "versions", {one.version: one for one in loaded})

    def pinned(self, version: Pin) -> LoadedVersion:
        """The version that the caller asked for: by its number, or by its arm.

        Raises:
            NotFoundError: It is not loaded, or nothing is on trial.
        """
        if isinstance(version, Arm):
            if version is not Arm.CANDIDATE:
                return self.stable
            if self.candidate is None:
                raise NotFoundError(f"model {self.rollout.model!r} has no candidate that can answer")
            return self.candidate
        if (loaded := self.versions.get(version)) is None:
            served = ", ".join(map(str, sorted(self.versions)))
            raise NotFoundError(f"model {self.rollout.model!r} has no loaded version {version}; loaded: {served}")
        return loaded

    def check_up(self, version: int | None = None) -> None:
        """See that a version can answer; None: the stable one.

        Raises:
            NotFoundError: It is not loaded.
            UnavailableError: It is, but what runs it is down.
        """
        loaded = self.stable if version is None else self.pinned(version)
        if (down := loaded.down) is not None:
            raise UnavailableError(f"{loaded.label} cannot answer: {down}")

    def index(self) -> list["IndexEntry"]:
        """Every version, whether or not it can answer."""
        return [
            IndexEntry(one.name, one.version, "READY" if one.down is None else "UNAVAILABLE", one.down or "")
            for _, one in sorted(self.versions.items())
        ]

    def route(self, key: bytes) -> tuple[LoadedVersion, Arm]:
        """The version and arm that answer a routing key."""
        if not self.on_trial:
            return self.stable, Arm.STABLE
        arm, version = self.split.place(key)
        if arm is not Arm.CANDIDATE:
            return self.stable, arm
        loaded = self.on_trial.get(version)
        return (self.stable, Arm.STABLE) if loaded is None else (loaded, arm)

    def arms(self) -> dict[int, Arm]:
        """What each loaded version is there for."""
        roles = {one.version: Arm.PINNED for one in self.extras} | {self.stable.version: Arm.STABLE}
        return roles | dict.fromkeys(self.on_trial, Arm.CANDIDATE)
