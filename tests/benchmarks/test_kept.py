"""Answers are kept, and given up when anything changes that they follow from."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from benchmarks.training.asking import ask
from benchmarks.training.kept import Kept
from benchmarks.training.libraries.entrants import R1
from benchmarks.training.libraries.exchange import Measured, Ratings, RatingSplit, load_measured
from driftwheel.files import sha256_of
from tests.benchmarks.test_rating_comparison import PYTHON

MEAN = R1[0]
ROOT = Path(__file__).parents[2]
THIS = Path(__file__).relative_to(ROOT).as_posix()
NOWHERE = Path("/no/python/here")


def answer(value: float, **sources: str) -> Measured:
    return Measured(np.array([value]), 1.5, 40.0, "2026-01-01T00:00:00+00:00", 0.3, sources, {"fold": 2})


def unwanted() -> Measured:
    raise AssertionError("it was measured again")


def test_what_is_kept_comes_back_as_it_was(tmp_path: Path):
    first = answer(3.5, **{THIS: sha256_of(Path(__file__))})
    Kept("ratings", folder=tmp_path).answer("mean", {"seed": 42}, lambda: first)
    found = Kept("ratings", folder=tmp_path).answer("mean", {"seed": 42}, unwanted)
    assert found.values.tolist() == [3.5]
    assert dataclasses.replace(found, values=first.values) == first


@pytest.mark.parametrize(
    ("about", "key", "again"),
    [("ratings", {"seed": 43}, ""), ("other ratings", {"seed": 42}, ""), ("ratings", {"seed": 42}, "mean")],
    ids=["another seed", "another table", "asked for again"],
)
def test_what_follows_from_something_else_is_measured(tmp_path: Path, about: str, key: dict[str, int], again: str):
    Kept("ratings", folder=tmp_path).answer("mean", {"seed": 42}, lambda: answer(3.5))
    kept = Kept(about, folder=tmp_path, again=frozenset({again}))
    assert kept.answer("mean", key, lambda: answer(4.0)).values.tolist() == [4.0]
    assert Kept(about, folder=tmp_path).answer("mean", key, unwanted).values.tolist() == [4.0]


@pytest.mark.parametrize("sources", [{THIS: "0" * 64}, {"benchmarks/gone.py": "0" * 64}], ids=["changed", "gone"])
def test_what_other_code_answered_is_measured_again(tmp_path: Path, sources: dict[str, str]):
    kept = Kept("ratings", folder=tmp_path)
    kept.answer("mean", 42, lambda: answer(3.5, **sources))
    assert kept.answer("mean", 42, lambda: answer(4.0)).values.tolist() == [4.0]


def test_a_model_that_was_trained_is_judged_without_another_process(tmp_path: Path):
    rows = Ratings(*(np.arange(8) for _ in range(2)), np.linspace(1, 5, 8), np.arange(8))
    split = RatingSplit("small", rows, rows, 8, 8, np.full(8, 1999.0), np.ones((8, 1), np.uint8))
    split.save(tmp_path / "split.npz")
    kept = Kept(sha256_of(tmp_path / "split.npz"), folder=tmp_path / "kept")
    first = ask(MEAN, split, tmp_path / "split.npz", 42, python=PYTHON, kept=kept)
    assert ask(MEAN, split, tmp_path / "split.npz", 42, python=NOWHERE, kept=kept) == first
    assert first.metrics["rmse"] == pytest.approx(np.std(rows.rating))
    (file,) = (tmp_path / "kept").iterdir()
    assert "benchmarks/training/libraries/means.py" in load_measured(file).sources
    assert not any(name.startswith("driftwheel") for name in load_measured(file).sources)


def test_the_same_split_is_the_same_file(tmp_path: Path):
    rows = Ratings(*(np.arange(8) for _ in range(2)), np.linspace(1, 5, 8), np.arange(8))
    split = RatingSplit("small", rows, rows, 8, 8, np.full(8, 1999.0), np.ones((8, 1), np.uint8))
    for name in ("a", "b"):
        split.save(tmp_path / name / "split.npz")
    assert (tmp_path / "a" / "split.npz").read_bytes() == (tmp_path / "b" / "split.npz").read_bytes()
