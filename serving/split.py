"""Which arm of a rollout answers a request: a pure function of the rollout and the routing key."""

from hashlib import blake2b

from driftwheel.contracts import Arm
from driftwheel.rollout import Rollout


class Split:
    """The split of one rollout.

    A key's position in [0, 1) is a salted hash of it. The candidate has the positions from 0 up to its weight, so raising
    the weight only adds keys to it; control has as many from 1 down, and stable what lies between. While the candidate has no
    traffic, and answers copies of control's requests, control has as many as the rollout's shadow says.
    """

    def __init__(self, rollout: Rollout) -> None:
        self._hash = blake2b(rollout.salt.encode(), digest_size=8)
        self._candidate_below = rollout.weight if rollout.candidate is not None else 0.0
        compared = self._candidate_below or (rollout.shadow if rollout.candidate is not None else 0.0)
        self._control_from = max(1.0 - compared, self._candidate_below)
        self._is_whole = compared == 0.0

    def position(self, key: bytes) -> float:
        """Where a key lies in [0, 1)."""
        hasher = self._hash.copy()
        hasher.update(key)
        # 53 bits fit a float exactly, so that the result stays below 1.
        return (int.from_bytes(hasher.digest(), "little") >> 11) / 2**53

    def arm(self, key: bytes) -> Arm:
        """The arm that answers a key."""
        if self._is_whole:
            return Arm.STABLE
        position = self.position(key)
        if position < self._candidate_below:
            return Arm.CANDIDATE
        return Arm.CONTROL if position >= self._control_from else Arm.STABLE
