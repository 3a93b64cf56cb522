"""Several versions on trial at once: who gets which."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftwheel.contracts import Arm
from driftwheel.rollout import Rollout
from serving.split import Place, Split

KEYS = [str(number).encode() for number in range(20_000)]
TRIAL = Rollout(model="mf", stable=1, candidate=2, rivals=(3, 4), began=(2, 3, 4), state="running", salt="s")


def places(rollout: Rollout) -> list[Place]:
    split = Split(rollout)
    return [split.place(key) for key in KEYS]


def test_each_has_the_same_share_and_so_has_control() -> None:
    for weight in (0.01, 0.1, 0.25):
        found = places(replace(TRIAL, weight=weight))
        for place in ((Arm.CANDIDATE, 2), (Arm.CANDIDATE, 3), (Arm.CANDIDATE, 4), (Arm.CONTROL, 1)):
            # Six standard deviations of a binomial.
            assert abs(found.count(place) / len(KEYS) - weight) < 6 * (weight * (1 - weight) / len(KEYS)) ** 0.5


@pytest.mark.parametrize("dropped", [2, 3, 4])
def test_dropping_one_moves_its_own_keys_to_stable_and_no_others(dropped: int) -> None:
    before = replace(TRIAL, weight=0.2)
    left = [version for version in before.on_trial if version != dropped]
    after = replace(before, candidate=left[0], rivals=tuple(left[1:]))
    for was, now in zip(places(before), places(after), strict=True):
        assert now == ((Arm.STABLE, 1) if was == (Arm.CANDIDATE, dropped) else was)


@pytest.mark.parametrize("survivor", [2, 3, 4])
def test_growing_only_adds_keys_before_and_after_the_others_have_left(survivor: int) -> None:
    taken: set[bytes] = set()
    alone = replace(TRIAL, candidate=survivor, rivals=())
    rising = [replace(TRIAL, weight=w) for w in (0.01, 0.05, 0.25)] + [
        replace(alone, weight=w) for w in (0.25, 0.5, 0.9, 1)
    ]
    for rollout in rising:
        found = dict(zip(KEYS, places(rollout), strict=True))
        now = {key for key, place in found.items() if place == (Arm.CANDIDATE, survivor)}
        assert taken <= now
        taken = now
        control = sum(arm is Arm.CONTROL for arm, _ in found.values()) / len(KEYS)
        assert control == pytest.approx(min(rollout.weight, 1 - rollout.weight), abs=0.02)
    assert len(taken) == len(KEYS)


def test_while_all_are_in_shadow_only_control_is_set_apart() -> None:
    found = places(replace(TRIAL, shadow=0.1))
    assert set(found) == {(Arm.STABLE, 1), (Arm.CONTROL, 1)}
    assert found.count((Arm.CONTROL, 1)) / len(KEYS) == pytest.approx(0.1, abs=0.015)


@given(st.floats(0, 1), st.integers(0, 4), st.integers(2, 5), st.floats(0, 1), st.binary(max_size=20))
def test_any_rollout_places_any_key(weight: float, first: int, arms: int, shadow: float, key: bytes) -> None:
    began = tuple(range(2, 2 + arms))
    first %= arms
    rollout = Rollout(
        model="mf", stable=1, candidate=began[first], began=began, weight=weight, shadow=shadow, state="running"
    )
    arm, version = Split(rollout).place(key)
    assert version == (began[first] if arm is Arm.CANDIDATE else 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rivals": (2,)}, "each version can be there once"),
        ({"rivals": (1,)}, "each version can be there once"),
        ({"rivals": (5,)}, "began must name all"),
        ({"weight": 0.26}, "3 candidates may have 25.00% each, not 26.00%"),
        ({"candidate": None, "state": "stable"}, "there are rivals, and no candidate"),
        ({"rivals": (0, 3)}, "versions count from 1"),
    ],
)
def test_a_rollout_that_cannot_be_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(TRIAL, **changes)  # type: ignore[arg-type]
