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
