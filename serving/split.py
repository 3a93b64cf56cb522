"""Which arm of a rollout answers a request: a pure function of the rollout and the routing key."""

from bisect import bisect_right
from hashlib import blake2b

from driftwheel.contracts import Arm
from driftwheel.rollout import Rollout

Place = tuple[Arm, int]
"""An arm, and the version that answers there."""


class Split:
    """The split of one rollout.

    A key's position in [0, 1) is a salted hash of it. The candidate has the positions from 0 up to its weight, so raising
    the weight only adds keys to it; control has as many from 1 down, and stable what lies between. While the candidate has no
    traffic, and answers copies of control's requests, control has as many as the rollout's shadow says.

    Where ``n`` versions began a trial together, they begin at 0, 1/(n+1), 2/(n+1) and so on, each where it did as long as it
    is on trial: when one is dropped, its own keys go back to stable and no others move. One that is alone in the end grows on
    from its place, past 1 to 0 if need be, and control has the highest positions that are left.
    """

    def __init__(self, rollout: Rollout) -> None:
        self._hash = blake2b(rollout.salt.encode(), digest_size=8)
        self._stable: Place = Arm.STABLE, rollout.stable
        self._starts, self._places = _ranges(rollout)
        self._is_whole = len(self._places) == 1 and self._places[0] == self._stable

    def position(self, key: bytes) -> float:
        """Where a key lies in [0, 1)."""
        hasher = self._hash.copy()
        hasher.update(key)
        # 53 bits fit a float exactly, so that the result stays below 1.
        return (int.from_bytes(hasher.digest(), "little") >> 11) / 2**53

    def place(self, key: bytes) -> Place:
        """The arm and the version that answer a key."""
        if self._is_whole:
            return self._stable
        return self._places[bisect_right(self._starts, self.position(key)) - 1]

    def arm(self, key: bytes) -> Arm:
        """The arm that answers a key."""
        return self.place(key)[0]


def _ranges(rollout: Rollout) -> tuple[list[float], list[Place]]:
    """Where each range begins, rising from 0, and who answers in it."""
    taken = sorted(_candidates(rollout))
    free = list(zip([0.0, *(end for _, end, _ in taken)], [*(start for start, _, _ in taken), 1.0], strict=True))
    ranges = [(start, end, (Arm.CANDIDATE, version)) for start, end, version in taken]
    wanted = (rollout.weight or rollout.shadow) if rollout.on_trial else 0.0
    for start, end in reversed(free):
        border = max(start, end - wanted)
        wanted = max(wanted - (end - border), 0.0)
        ranges += [(start, border, (Arm.STABLE, rollout.stable)), (border, end, (Arm.CONTROL, rollout.stable))]
    kept = sorted((start, place) for start, end, place in ranges if start < end)
    return [start for start, _ in kept], [place for _, place in kept]


def _candidates(rollout: Rollout) -> list[tuple[float, float, int]]:
    """The ranges of the versions on trial; one that goes past 1 is in two."""
    found: list[tuple[float, float, int]] = []
    for version in rollout.on_trial:
        start = rollout.began.index(version) / (len(rollout.began) + 1) if rollout.began else 0.0
        end = start + rollout.weight
        found.append((start, min(end, 1.0), version))
        if end > 1.0:
            found.append((0.0, min(end - 1.0, start), version))
    return [one for one in found if one[0] < one[1]]
