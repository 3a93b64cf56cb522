from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from driftwheel.contracts import Arm
from driftwheel.rollout import Rollout
from serving.split import Split

KEYS = [str(number).encode() for number in range(20_000)]


def at(weight: float, salt: str = "s") -> Split:
    return Split(Rollout(model="mf", stable=1, candidate=2, weight=weight, state="running", salt=salt))


def test_shares_are_what_the_weight_says() -> None:
    for weight in (0.01, 0.25, 0.5):
        arms = [at(weight).arm(key) for key in KEYS]
        for arm in (Arm.CANDIDATE, Arm.CONTROL):
            # Six standard deviations of a binomial: fails once in a billion salts.
            assert abs(arms.count(arm) / len(KEYS) - weight) < 6 * (weight * (1 - weight) / len(KEYS)) ** 0.5


def test_growing_the_weight_only_adds_keys() -> None:
    taken: set[bytes] = set()
    for weight in (0.01, 0.05, 0.25, 0.5, 1.0):
        now = {key for key in KEYS if at(weight).arm(key) is Arm.CANDIDATE}
        assert taken <= now
        taken = now
    assert len(taken) == len(KEYS)


def test_another_salt_takes_other_keys() -> None:
    first = {key for key in KEYS if at(0.1, "a").arm(key) is Arm.CANDIDATE}
    second = {key for key in KEYS if at(0.1, "b").arm(key) is Arm.CANDIDATE}
    assert len(first & second) < 0.3 * len(first)


@given(st.binary(max_size=40), st.floats(0, 1), st.text(max_size=10))
def test_a_key_stays_in_its_arm(key: bytes, weight: float, salt: str) -> None:
    assert at(weight, salt).arm(key) is at(weight, salt).arm(key)
    assert 0 <= at(weight, salt).position(key) < 1


def test_without_a_candidate_or_a_share_all_is_stable() -> None:
    alone = Rollout(model="mf", stable=1)
    trial = replace(alone, candidate=2, state="running")
    assert {Split(rollout).arm(key) for key in KEYS[:500] for rollout in (alone, trial)} == {Arm.STABLE}
