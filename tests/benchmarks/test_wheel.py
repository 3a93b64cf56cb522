"""The wheel's benchmark: what is done to its traffic, and what it listens for. (All of it takes minutes.)"""

import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks.wheel.__main__ import _movielens_targets, _telco_targets
from benchmarks.wheel.telco import LEAVE_TOO, PHASES, PRICE, as_they_are, broken, dearer
from benchmarks.wheel.turning import Home
from driftwheel.settings import Settings
from training.data.tables import packaged_table


@pytest.fixture(scope="module")
def customers() -> pd.DataFrame:
    table = packaged_table("modeldata", "wa_churn")
    return table.assign(churned=(table["churn"] == "Yes").astype("float32"))


def test_a_price_change_is_paid_by_all_and_drives_some_away(customers: pd.DataFrame) -> None:
    after = dearer(customers, np.random.default_rng(0))
    assert after["monthly_charges"].tolist() == pytest.approx((customers["monthly_charges"] * PRICE).tolist())
    free = customers["contract"] == "Month-to-month"
    assert after.loc[~free, "churned"].equals(customers.loc[~free, "churned"])
    stayed = free & (customers["churned"] == 0)
    assert after.loc[stayed, "churned"].mean() == pytest.approx(LEAVE_TOO, abs=0.03)
    assert (after["churned"] >= customers["churned"]).all()


def test_a_broken_column_is_empty_and_all_else_is_as_it_was(customers: pd.DataFrame) -> None:
    rng = np.random.default_rng(0)
    assert broken(customers, rng)["monthly_charges"].isna().all()
    assert broken(customers, rng).drop(columns="monthly_charges").equals(customers.drop(columns="monthly_charges"))
    assert as_they_are(customers, rng).equals(customers)


def test_a_retrain_is_going_on_until_the_loop_says_something_else_of_the_model(tmp_path: Path) -> None:
    home = Home(Settings(home=tmp_path), "mf", None, 1.0)  # pyright: ignore[reportArgumentType] (nothing is sent)
    home._listen(io.StringIO("mf: version 1 in service: drift; retrain\nmf: retraining (drift job: drift; retrain)\n"))
    assert home._retraining
    home._listen(io.StringIO("churn: version 1 in service: stable\nan event\n"))
    assert home._retraining
    home._listen(io.StringIO("mf: version 2 on trial: HOLD\n"))
    assert not home._retraining


def test_what_was_not_reached_is_not_met() -> None:
    assert [one.met for one in _movielens_targets({"failed": {}, "promotions": 0})] == [True, False, False]
    told = ("stable", "broken data", "drift")
    phases = {
        name: {"failed": 0, "retrains": [], "statuses": [status], "promotions": 0}
        for (name, _), status in zip(PHASES, told, strict=True)
    }
    assert [one.met for one in _telco_targets(phases)] == [True, True, True, True, False, False]
