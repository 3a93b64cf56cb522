from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from driftwheel.errors import NotFoundError, RolloutError
from driftwheel.rollout import (
    abort,
    advance,
    promote,
    read_rollout,
    rollout_path,
    serve_stable,
    set_paused,
    start_candidate,
)

BY = {"by": "test", "now": "2026-01-01T00:00:00Z"}


def test_a_candidate_goes_step_by_step_to_promotion(tmp_path: Path) -> None:
    serve_stable(tmp_path, "mf", 1, **BY)
    weights = [start_candidate(tmp_path, "mf", 2, steps=(0.1, 0.5, 1.0), **BY).weight]
    weights += [advance(tmp_path, "mf", **BY).weight for _ in range(3)]
    assert weights == [0.1, 0.5, 1.0, 1.0]
    done = promote(tmp_path, "mf", **BY)
    assert (done.stable, done.candidate, done.weight, done.state, done.revision) == (2, None, 0.0, "stable", 6)
    assert read_rollout(tmp_path, "mf") == done


def test_an_aborted_candidate_leaves_stable_as_it_was(tmp_path: Path) -> None:
    serve_stable(tmp_path, "mf", 1, **BY)
    first = start_candidate(tmp_path, "mf", 2, **BY)
    assert set_paused(tmp_path, "mf", paused=True, **BY).state == "paused"
    assert abort(tmp_path, "mf", **BY).stable == 1
    assert start_candidate(tmp_path, "mf", 2, **BY).salt != first.salt


@pytest.mark.parametrize("change", [advance, promote, abort])
def test_without_a_candidate_there_is_nothing_to_change(tmp_path: Path, change) -> None:
    serve_stable(tmp_path, "mf", 1, **BY)
    with pytest.raises(RolloutError, match="has no candidate"):
        change(tmp_path, "mf", **BY)


def test_what_cannot_start_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RolloutError, match="serves no version yet"):
        start_candidate(tmp_path, "mf", 2, **BY)
    serve_stable(tmp_path, "mf", 1, **BY)
    with pytest.raises(RolloutError, match="is the stable version already"):
        start_candidate(tmp_path, "mf", 1, **BY)
    with pytest.raises(RolloutError, match="steps must rise"):
        start_candidate(tmp_path, "mf", 2, steps=(0.5, 0.1), **BY)
    start_candidate(tmp_path, "mf", 2, **BY)
    with pytest.raises(RolloutError, match="version 2 of 'mf' is on trial already"):
        start_candidate(tmp_path, "mf", 3, **BY)


def test_a_decision_on_an_old_revision_is_refused(tmp_path: Path) -> None:
    serve_stable(tmp_path, "mf", 1, **BY)
    seen = start_candidate(tmp_path, "mf", 2, **BY).revision
    abort(tmp_path, "mf", **BY)
    with pytest.raises(RolloutError, match="moved from revision"):
        promote(tmp_path, "mf", revision=seen, **BY)


def test_many_writers_lose_no_write(tmp_path: Path) -> None:
    serve_stable(tmp_path, "mf", 1, **BY)
    start_candidate(tmp_path, "mf", 2, **BY)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: advance(tmp_path, "mf", **BY), range(40)))
    assert read_rollout(tmp_path, "mf").revision == 42


@pytest.mark.parametrize("content", [b"", b"{", b'{"model":"mf"}', b'{"model":"mf","stable":1,"weight":0.5}'])
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes) -> None:
    path = rollout_path(tmp_path, "mf")
    path.write_bytes(content)
    with pytest.raises(RolloutError, match=r"mf\.json cannot be used"):
        read_rollout(tmp_path, "mf")


def test_a_model_without_a_rollout_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="has no rollout"):
        read_rollout(tmp_path, "mf")


def test_several_are_tried_at_once_and_dropped_one_by_one(tmp_path: Path) -> None:
    serve_stable(tmp_path, "mf", 1, **BY)
    begun = start_candidate(tmp_path, "mf", 2, rivals=(3, 4), steps=(0.1, 0.25, 0.5, 1.0), **BY)
    assert (begun.on_trial, begun.versions, begun.began) == ((2, 3, 4), (1, 2, 3, 4), (2, 3, 4))
    advance(tmp_path, "mf", **BY)
    with pytest.raises(RolloutError, match=r"3 candidates of 'mf' have no room for 50.00% each"):
        advance(tmp_path, "mf", **BY)
    with pytest.raises(RolloutError, match="versions 2, 3, 4 of 'mf' are on trial; say which"):
        promote(tmp_path, "mf", **BY)
    with pytest.raises(RolloutError, match="version 7 of 'mf' is not on trial"):
        abort(tmp_path, "mf", versions=[7], **BY)
    left = abort(tmp_path, "mf", versions=[2], **BY)
    assert (left.candidate, left.rivals, left.weight, left.salt) == (3, (4,), 0.25, begun.salt)
    alone = abort(tmp_path, "mf", versions=[3], **BY)
    assert (alone.candidate, alone.rivals, alone.began) == (4, (), (2, 3, 4))
    assert [advance(tmp_path, "mf", **BY).weight for _ in range(2)] == [0.5, 1.0]
    assert read_rollout(tmp_path, "mf").about(4) == read_rollout(tmp_path, "mf")
    assert promote(tmp_path, "mf", **BY).versions == (4,)


def test_several_that_cannot_start_are_refused(tmp_path: Path) -> None:
    serve_stable(tmp_path, "mf", 1, **BY)
    for rivals, steps, message in (
        ((1,), (0.1, 1.0), "version 1 of 'mf' is the stable version already"),
        ((2,), (0.1, 1.0), "each version can be there once"),
        ((3,), (0.5, 1.0), "2 candidates may have 33.33% each, not 50.00%"),
    ):
        with pytest.raises(RolloutError, match=message):
            start_candidate(tmp_path, "mf", 2, rivals=rivals, steps=steps, **BY)


def test_all_of_several_are_dropped_at_once(tmp_path: Path) -> None:
    serve_stable(tmp_path, "mf", 1, **BY)
    start_candidate(tmp_path, "mf", 2, rivals=(3,), **BY)
    assert abort(tmp_path, "mf", **BY).versions == (1,)
