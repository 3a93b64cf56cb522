import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftwheel.vocabulary import UNKNOWN, Vocabulary

INT64 = st.integers(-(2**63), 2**63 - 1)


@given(st.lists(INT64, unique=True, max_size=30), st.lists(INT64, max_size=30))
def test_integers_encode_as_a_dictionary_would(entries: list[int], asked: list[int]) -> None:
    vocabulary = Vocabulary(entries)
    expected = [entries.index(a) + 1 if a in entries else UNKNOWN for a in [*asked, *entries]]
    assert vocabulary.encode(np.array([*asked, *entries], dtype=np.int64)).tolist() == expected


@given(st.lists(st.text(min_size=1), unique=True, min_size=1, max_size=20), st.lists(st.text(), max_size=20))
def test_text_encodes_alike_as_str_and_bytes(entries: list[str], asked: list[str]) -> None:
    vocabulary = Vocabulary(entries)
    values = [*asked, *entries]
    as_text = vocabulary.encode(np.array(values, dtype=object))
    if all(c < "\ud800" or c > "\udfff" for v in values for c in v):
        as_bytes = vocabulary.encode(np.array([v.encode() for v in values], dtype=object))
        assert as_bytes.tolist() == as_text.tolist()
    assert as_text.tolist() == [vocabulary.index(value) for value in values]


def test_ids_far_apart_are_searched_and_near_ones_looked_up() -> None:
    for entries in ([5, 10**15], [5, 7]):
        vocabulary = Vocabulary(entries)
        assert vocabulary.encode(np.array([entries[1], 6, entries[0], -5])).tolist() == [2, UNKNOWN, 1, UNKNOWN]


def test_a_missing_text_is_unknown() -> None:
    assert Vocabulary(["a"]).encode(np.array([None, "", "a"], dtype=object)).tolist() == [UNKNOWN, UNKNOWN, 1]


@pytest.mark.parametrize("entries", [[1, 1], ["a", "a"], [1, "a"]])
def test_repeated_and_mixed_entries_are_refused(entries: list) -> None:
    with pytest.raises(ValueError, match="entries must be"):
        Vocabulary(entries)
