"""Entrants run in processes of their own, are judged alike, and are set beside each other."""

import dataclasses
import sys
from collections.abc import Generator
from pathlib import Path

import numpy as np
import pytest

from benchmarks.training import ratings, throughput
from benchmarks.training.asking import Run, ask, judge
from benchmarks.training.libraries import ease
from benchmarks.training.libraries.contract import FUNCTIONS
from benchmarks.training.libraries.entrants import ENTRANTS, Entrant
from benchmarks.training.libraries.exchange import Ratings, RatingSplit, load_split
from benchmarks.training.ours import OURS
from benchmarks.training.synthetic import Synthetic, write_synthetic

ROOT = Path(__file__).parents[2]
PYTHON = Path(sys.executable)
"""Enough for those that need numpy or torch alone; the other libraries have an environment of 2 GB."""

BY_NAME = {(one.case, one.name): one for one in ENTRANTS}


@pytest.fixture(scope="module")
def split() -> RatingSplit:
    """Two kinds of users, each with a taste for one half of the items."""
    random = np.random.default_rng(7)
    user, item = np.divmod(random.permutation(40 * 30)[:700], 30)
    rating = np.where((user % 2) == (item % 2), 4.5, 2.0)
    rows = Ratings(user, item, rating, np.arange(len(user)) + 1_000_000_000)
    train, test = rows.take(np.arange(600)), rows.take(np.arange(600, 700))
    return RatingSplit("two kinds", train, test, 40, 30, np.full(30, 1999.0), np.ones((30, 1), np.uint8))


@pytest.mark.parametrize(
    ("case", "name", "parameters"),
    [
        ("R1", "torch MF, Adagrad", {"factors": 4, "penalty": 0.01, "batch": 64, "epochs": 80}),
        ("R2 with fold-in", "plain ALS with ridge fold-in", {"factors": 4, "ridge": 0.1, "bias_ridge": 1.0}),
    ],
)
def test_those_with_factors_learn_what_means_cannot(
    case: str, name: str, parameters: dict[str, float], split: RatingSplit, tmp_path: Path
):
    split.save(tmp_path / "split.npz")
    entrant = BY_NAME[case, name]
    run = ask(entrant, split, tmp_path / "split.npz", 42, python=PYTHON, **{**entrant.parameters, **parameters})
    mean = ask(BY_NAME["R1", "mean"], split, tmp_path / "split.npz", 42, python=PYTHON)
    assert run.metrics["rmse"] < 0.6
    assert mean.metrics["rmse"] > 1.2
    assert run.training_s > 0
    assert 20 < run.peak_mib < 4_000


@pytest.fixture
def threads() -> Generator[None]:
    """The guide's loop sets how many torch has, for the process."""
    import torch

    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
def test_the_guides_loop_trains_on_as_many_rows_as_it_is_given(split: RatingSplit):
    from benchmarks.training.libraries import guide_loop

    few, all_of_them = (
        judge(split, guide_loop.predict(split, 42, epochs=10, rows=rows, batch=8).values, ranks=False)["rmse"]
        for rows in (8, 600)
    )
    assert all_of_them < few - 0.2


def test_ease_is_the_closed_form_of_its_paper(split: RatingSplit):
    seen = np.zeros((split.users, split.items))
    seen[split.train.user, split.train.item] = 1.0
    inverse = np.linalg.inv(seen.T @ seen + 5.0 * np.eye(split.items))
    weights = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0.0)
    scores = seen @ weights
    scores[seen > 0] = -np.inf
    ranked = ease.rank(split, 42, ridge=5.0).values
    assert (ranked >= 0).sum(axis=1).tolist() == np.minimum((seen == 0).sum(axis=1), 20).tolist()
    for user in range(split.users):
        items = ranked[user][ranked[user] >= 0]
        np.testing.assert_allclose(scores[user, items], np.sort(scores[user])[::-1][: len(items)])


def test_ease_on_recent_ratings_weighs_the_newest_most(split: RatingSplit):
    plain = ease.rank(split, 42, ridge=5.0).values
    np.testing.assert_array_equal(ease.rank(split, 42, ridge=5.0, half_life=1e9).values, plain)
    assert (ease.rank(split, 42, ridge=5.0, half_life=1.0).values != plain).any()


def test_one_that_fails_is_named_with_what_it_said(split: RatingSplit, tmp_path: Path):
    split.save(tmp_path / "split.npz")
    entrant = Entrant(case="R1", name="broken", module="libraries.means", function="predict")
    with pytest.raises(RuntimeError, match=r"(?s)broken failed on two kinds:.*unexpected keyword argument 'depth'"):
        ask(entrant, split, tmp_path / "split.npz", 42, python=PYTHON, depth=3)


def test_synthetic_ratings_are_taken_from_their_folder(tmp_path: Path):
    folder = write_synthetic(tmp_path / "made", Synthetic(rows=5_000, users=500, items=400, row_groups=2))
    run = ask(BY_NAME["R1", "mean"], load_split(folder), folder, 42, python=PYTHON)
    assert 0.5 < run.metrics["rmse"] < 1.5


def test_every_entrant_is_known_once_and_its_grid_holds_what_was_chosen():
    names = [(one.case, one.name) for one in (*ENTRANTS, *OURS)]
    assert len(set(names)) == len(names)
    for one in ENTRANTS:
        assert one.function in FUNCTIONS
        assert (ROOT / "benchmarks" / "training" / f"{one.module.replace('.', '/')}.py").exists()
        assert {
            name: one.parameters.get(name)
            for name, values in one.grid.items()
            if one.parameters.get(name) not in values
        } == {}


def run(
    case: str, name: str, seed: int, *, training_s: float = 2.0, parameters: dict | None = None, **metrics: float
) -> Run:
    return Run(case, name, seed, parameters or {}, metrics, training_s, 100.0 + seed)


def test_seeds_are_summed_up_and_shown():
    runs = [run("R1", "surprise SVD", 42, rmse=0.86, mae=0.6), run("R1", "surprise SVD", 43, rmse=0.88, mae=0.7)]
    found = ratings.summary(runs)
    one = found["R1"]["surprise SVD"]
    assert (one["seeds"], one["peak_mib"]) == ([42, 43], 143.0)
    assert one["rmse"] == pytest.approx(0.87)
    assert one["deviation"]["rmse"] == pytest.approx(0.01)
    shown = ratings.table("R1", found["R1"])
    assert [list(column.cells) for column in shown.columns][:3] == [["surprise SVD"], ["2"], ["0.8700 ±0.0100"]]


def test_what_ours_are_to_reach_is_judged_with_and_without_libraries_beside_them():
    ours = [
        run("R1", "Driftwheel als", 42, rmse=0.868, mae=0.6),
        run("R1", "Driftwheel bayes", 42, rmse=0.857, mae=0.6),
    ]
    judged = {target.name: target.met for target in ratings.targets(ratings.summary(ours))}
    assert judged == {
        "R1: s of training to RMSE 0.871": True,
        "R1: rmse of Driftwheel als": True,
        "R1: rmse of our best": False,
    }
    beside = ratings.summary([*ours, run("R1", "surprise SVD", 42, rmse=0.9, mae=0.7)])
    bounds = [(target.bound, target.met) for target in ratings.targets(beside) if target.name == "R1: rmse of our best"]
    assert bounds == [(0.9, True), (0.856, False)]


def test_rates_count_every_pass_over_the_rows_that_were_trained_on():
    about = {"train_rows": 1_000, "wanted": dataclasses.asdict(Synthetic()), "rmse_of_the_truth": 0.7}
    runs = [
        run("throughput", "LensKit ALS", 42, training_s=4.0, parameters={"epochs": 8}, rmse=0.8),
        run("throughput", "the guide's loop", 42, training_s=4.0, parameters={"epochs": 1, "rows": 100}, rmse=0.9),
    ]
    found = throughput.rated(runs, about)
    assert found["LensKit ALS"]["ratings_per_s"] == 2_000
    assert found["the guide's loop"]["ratings_per_s"] == 25
    assert throughput.table(found, about).row_count == 3
