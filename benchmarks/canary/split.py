"""What the split costs a request: ``python -m benchmarks.canary.split`` prints nanoseconds for each kind of rollout."""

import time
import timeit
from collections.abc import Callable, Sequence
from typing import Any

from driftwheel.rollout import Rollout
from serving.split import Split

ROLLOUTS = {
    "nothing on trial": Rollout(model="mf", stable=1),
    "one candidate": Rollout(model="mf", stable=1, candidate=2, weight=0.05, state="running", salt="s"),
    "three candidates": Rollout(
        model="mf", stable=1, candidate=2, rivals=(3, 4), began=(2, 3, 4), weight=0.05, state="running", salt="s"
    ),
}
_CALLS, _REPEATS = 20_000, 15


def nanoseconds(place: Callable[[bytes], Any], keys: Sequence[bytes]) -> float:
    """Processor time of a call, the loop around it included, in the best of several repeats."""

    def all_keys() -> None:
        for key in keys:
            place(key)

    return min(timeit.repeat(all_keys, timer=time.process_time, number=1, repeat=_REPEATS)) / len(keys) * 1e9


def main() -> None:
    keys = [str(user).encode() for user in range(_CALLS)]
    for name, rollout in ROLLOUTS.items():
        print(f"{name}: {nanoseconds(Split(rollout).place, keys):.0f} ns")


if __name__ == "__main__":
    main()
