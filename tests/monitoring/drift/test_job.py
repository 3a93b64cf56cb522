import time

import numpy as np
import pandas as pd
import pytest

from driftwheel.bundle import REFERENCE
from driftwheel.errors import BundleError
from driftwheel.settings import DriftSettings
from monitoring.drift.decision import decide_drift
from monitoring.drift.job import read_rows, run_drift, score_windows
from monitoring.drift.reference import Reference, load_reference
from monitoring.drift.scoring import score_window
from monitoring.drift.watches import build_monitors
from monitoring.drift.yardstick import Yardstick
from tests.monitoring.worlds import (
    CHURN,
    RATING,
    log_rows,
    make_bundle,
    movielens,
    telco,
    write_feedback,
    write_open,
    write_sealed,
)

SETTINGS = DriftSettings()
NOW = "2026-01-02T00:00:00Z"


@pytest.fixture(scope="module")
def customers():
    shuffled = telco().sample(frac=1, random_state=0, ignore_index=True)
    return shuffled.iloc[:3500], shuffled.iloc[3500:]


@pytest.fixture(scope="module")
def churn(tmp_path_factory, customers):
    return make_bundle(tmp_path_factory.mktemp("models"), "churn", "churn", CHURN, customers[0])


@pytest.fixture(scope="module")
def movies(tmp_path_factory):
    """A model that learned before 2005, with a reference of the years until 2012, and the years after."""
    table, learned = movielens("2005")
    until = table[(table["at"] >= "2005") & (table["at"] < "2012")].sample(frac=1, random_state=0)
    reference, fresh = until.iloc[:15_000], until.iloc[15_000:]
    bundle = make_bundle(tmp_path_factory.mktemp("models"), "movies", "rating", RATING, reference, learned=learned)
    return bundle, fresh, table[table["at"] >= "2012"]


def drift(bundle, tmp_path, window=None, units="users", **changes):
    return run_drift(
        log=tmp_path / "log",
        bundle=bundle,
        reports=tmp_path / "reports",
        settings=SETTINGS.model_copy(update={"units": units}),
        now=NOW,
        window=window,
        html=False,
        **changes,
    )


def draw(table, rows, seed):
    return table.sample(rows, replace=True, random_state=seed, ignore_index=True)


def alarms(bundle, tables, units="rows"):
    """How many of the tables' windows have an alarm, how many windows there are, and each table's decision."""
    reference = load_reference(bundle)
    yardstick = Yardstick.of(reference, SETTINGS.model_copy(update={"units": units}), seed=0)
    scored = [
        [score_window(table.iloc[start : start + 2000], yardstick) for start in range(0, len(table), 2000)]
        for table in tables
    ]
    alone = SETTINGS.model_copy(update={"windows_needed": 1, "windows": 1})
    alarmed = [decide_drift([window], alone).status != "stable" for windows in scored for window in windows]
    return sum(alarmed), len(alarmed), [decide_drift(windows, SETTINGS) for windows in scored]


def test_stationary_customers_do_not_alarm(churn, customers):
    """Bound: of 120 windows drawn from real customers at most 1 alarms (expected 0.1), of 40 decisions none."""
    alarmed, windows, decisions = alarms(churn, [draw(customers[1], 6000, seed) for seed in range(40)])
    assert windows == 120
    assert alarmed <= 1
    assert {decision.status for decision in decisions} == {"stable"}


@pytest.mark.parametrize("units", ["rows", "users"])
def test_stationary_ratings_do_not_alarm_in_spite_of_ids(movies, units):
    """Bound: of 90 windows drawn from real ratings at most 1 alarms, of 30 decisions none."""
    bundle, fresh, _ = movies
    alarmed, windows, decisions = alarms(bundle, [draw(fresh, 6000, seed) for seed in range(30)], units=units)
    assert windows == 90
    assert alarmed <= 1
    assert {decision.status for decision in decisions} == {"stable"}


@pytest.mark.parametrize("column", ["in_tenure", "in_monthly_charges", "in_total_charges", "out_probability"])
def test_a_shift_of_a_fifth_of_a_standard_deviation_is_found_in_three_windows(churn, customers, column):
    """Of 12 streams at least 11 are called within three windows of 2,000 rows."""
    tables = [draw(customers[1], 6000, 100 + seed) for seed in range(12)]
    for table in tables:
        table[column] += 0.2 * table[column].std()
    name = column.replace("out_", "prediction ").replace("in_", "")
    found = [{o.monitor for o in decision.outcomes if o.drifted} for decision in alarms(churn, tables)[2]]
    assert sum(name in drifted for drifted in found) >= 11
    assert not set.union(*found) - {name}


def test_a_tail_of_five_percent_is_found(churn, customers):
    tables = [draw(customers[1], 6000, 200 + seed) for seed in range(10)]
    for table in tables:
        table.loc[table.index % 20 == 0, "in_monthly_charges"] = 118.0
    assert all(decision.input_drift for decision in alarms(churn, tables)[2])


def test_a_price_change_moves_inputs_and_predictions_and_retrains(churn, customers, tmp_path):
    table = draw(customers[1], 6000, 7)
    table["in_monthly_charges"] *= 1.25
    table["out_probability"] = (table["out_probability"] * 1.2).clip(0, 1)
    decision = drift(churn, tmp_path, table).decision
    assert decision.input_drift
    assert decision.prediction_drift
    assert decision.retrain
    assert "monthly_charges drifts (values are higher" in decision.summary


@pytest.mark.parametrize("units", ["rows", "users"])
def test_movielens_after_2012_is_not_what_it_was(movies, tmp_path, units):
    bundle, _, after = movies
    decision = drift(bundle, tmp_path, after.sample(6000, random_state=0), units=units).decision
    drifted = {outcome.monitor for outcome in decision.outcomes if outcome.drifted}
    assert {"item_id popularity", "item_id unknown"} <= drifted
    assert decision.input_drift


def test_users_are_never_compared_one_by_one(movies):
    names = {monitor.name for monitor in build_monitors(load_reference(movies[0]), window_rows=2000, seed=0)}
    assert names == {
        "user_id unknown", "item_id unknown", "item_id popularity", "item_id top 50", "prediction rating",
    }  # fmt: skip


@pytest.mark.parametrize("nothing", [None, np.nan])
@pytest.mark.parametrize("column", ["in_contract", "in_tenure"])
def test_an_empty_column_is_broken_data(churn, customers, tmp_path, column, nothing):
    table = draw(customers[1], 6000, 1)
    table[column] = nothing
    decision = drift(churn, tmp_path, table).decision
    assert (decision.status, decision.schema_broken, decision.retrain) == ("broken data", True, False)
    assert column.removeprefix("in_") in decision.faults[0]


def test_other_breaks_of_the_schema(churn, customers, tmp_path):
    table = draw(customers[1], 6000, 1).drop(columns="in_tenure")
    assert drift(churn, tmp_path, table).decision.faults == ("column tenure is not there",)
    table = draw(customers[1], 6000, 1)
    table["in_tenure"] = "many months"
    assert "tenure is no number in 100.0% of rows" in drift(churn, tmp_path, table).decision.faults[0]
    table = draw(customers[1], 6000, 1)
    table["in_contract"] = table["in_contract"].str.upper()
    assert "contract has values that the model never saw" in drift(churn, tmp_path, table).decision.faults[0]


def test_a_reference_with_an_empty_column_is_fine_while_it_stays_empty(tmp_path, customers):
    reference = customers[0].assign(in_tenure=np.float32(np.nan))
    bundle = make_bundle(tmp_path / "models", "churn", "churn", CHURN, reference)
    window = draw(customers[1], 6000, 3).assign(in_tenure=np.nan)
    assert drift(bundle, tmp_path, window).decision.status == "stable"
    assert drift(bundle, tmp_path, draw(customers[1], 6000, 3)).decision.input_drift


def test_few_rows_are_not_judged(churn, customers, tmp_path):
    for table in (customers[1].head(1999), customers[1].head(0), None):
        result = drift(churn, tmp_path, table)
        assert result.decision.status == "not enough rows"
        assert (result.windows, result.report_html) == ((), None)


def test_plain_column_names_will_do(churn, customers, tmp_path):
    table = draw(customers[1], 4000, 5).rename(columns=lambda name: name.removeprefix("in_").removeprefix("out_"))
    result = drift(churn, tmp_path, table.rename(columns={"label": "churn"}))
    assert result.decision.status == "stable"
    assert [window.quality.outcome for window in result.windows if window.quality] == ["fine", "fine"]
    without = drift(churn, tmp_path, table.drop(columns=["probability", "label"]))
    assert without.decision.status == "stable"
    assert "prediction probability" not in {outcome.monitor for outcome in without.decision.outcomes}


def test_the_newest_rows_of_the_log_are_judged_with_their_labels(churn, customers, tmp_path):
    old, new = draw(customers[1], 3000, 1).assign(in_tenure=500.0), draw(customers[1], 6000, 2)
    table = pd.concat([old, new], ignore_index=True)
    arms = np.where(np.arange(9000) % 3 == 0, "control", "stable")
    logged = log_rows(table, CHURN, arm=arms.tolist())
    write_sealed(tmp_path / "log", "churn", 1, logged.slice(0, 5000))
    write_open(tmp_path / "log", "churn", 1, logged.slice(5000))
    # None of these belongs to what the version was asked in traffic.
    broken = new.head(3000).assign(in_tenure=900.0)
    ids = [f"x{i}" for i in range(3000)]
    for number, odd in enumerate(({"arm": ["pinned"] * 3000}, {"kind": ["recommend"] * 3000}, {"code": ["X"] * 3000})):
        rows = log_rows(broken, CHURN, prediction_id=ids, **odd)
        write_sealed(tmp_path / "log", "churn", 1, rows, stem=f"20260102T000000-2-{number}")
    write_sealed(tmp_path / "log", "churn", 2, log_rows(broken, CHURN))
    write_feedback(tmp_path / "log", "churn", [f"p{i:07d}" for i in range(9000)], table["label"].tolist())
    result = drift(churn, tmp_path)
    assert (result.rows, result.decision.status) == (9000, "stable")
    assert [window.rows for window in result.windows] == [2000] * 3
    assert [window.quality.labelled for window in result.windows if window.quality] == [2000] * 3
    assert result.windows[-1].end is not None
    assert result.windows[-1].end.startswith("2026-01-01 02:29:59")
    assert drift(churn, tmp_path, since="2026-01-01T01:30:00Z").rows == 3600


def test_recommendations_are_not_looked_at_empty_or_not(tmp_path):
    table = pd.DataFrame({"in_user_id": range(4), "in_item_id": range(4), "out_rating": 3.0, "label": 3.0})
    bundle = make_bundle(tmp_path / "models", "movies", "rating", RATING, table)
    kinds = {"kind": ["infer", "recommend", "recommend", "infer"]}
    logged = log_rows(table, RATING, in_item_id=[1, None, 3, 4], out_rating=[3.0, None, 3.0, 3.0], **kinds)
    write_sealed(tmp_path / "log", "movies", 1, logged)
    write_feedback(tmp_path / "log", "movies", [f"p{i:07d}" for i in range(4)], [3.0] * 4)
    assert read_rows(tmp_path / "log", bundle, since=None)["in_item_id"].tolist() == [1, 4]


def test_one_window_is_shown_and_not_called_stable(churn, customers, tmp_path):
    result = drift(churn, tmp_path, draw(customers[1], 2500, 5))
    assert result.decision.status == "not enough rows"
    assert result.decision.summary == "not enough rows: 1 of the 2 windows needed; no monitor alarms so far"
    assert len(result.windows) == 1
    assert result.decision.outcomes


def test_worse_labels_are_quality_down_and_retrain(churn, customers, tmp_path):
    table = draw(customers[1], 6000, 4)
    flipped = table.index % 5 == 0
    table.loc[flipped, "label"] = 1 - table.loc[flipped, "label"]
    decision = drift(churn, tmp_path, table).decision
    assert (decision.quality_down, decision.input_drift, decision.retrain) == (True, False, True)
    table.loc[table.index % 40 != 0, "label"] = np.nan
    result = drift(churn, tmp_path, table)
    assert [window.quality.outcome for window in result.windows if window.quality] == ["not enough labels"] * 3


def test_the_same_rows_get_the_same_decision(churn, customers, tmp_path):
    table = draw(customers[1], 6000, 6)
    assert drift(churn, tmp_path, table).decision == drift(churn, tmp_path, table).decision


def test_a_bundle_with_a_useless_reference_is_refused(tmp_path, customers):
    bundle = make_bundle(tmp_path / "a", "churn", "churn", CHURN, customers[0].drop(columns="label"))
    with pytest.raises(BundleError, match=f"{REFERENCE} lacks the columns label"):
        load_reference(bundle)
    bundle = make_bundle(tmp_path / "b", "churn", "churn", CHURN, customers[0].head(0))
    with pytest.raises(BundleError, match="has no rows"):
        load_reference(bundle)


def test_a_value_that_goes_missing_now_and_then_is_a_monitor_of_its_own(churn, customers):
    tables = [draw(customers[1], 6000, 300 + seed) for seed in range(3)]
    for table in tables:
        table.loc[table.index % 50 == 0, "in_tenure"] = np.nan
        table.loc[table.index % 50 == 1, "in_contract"] = None
    for decision in alarms(churn, tables)[2]:
        outcomes = {outcome.monitor: outcome for outcome in decision.outcomes}
        assert decision.status == "drift"
        assert outcomes["tenure missing"].why == "rows without a value: 0.0% of rows before, 2.0% now"
        assert {"tenure missing", "contract missing"} <= {o.monitor for o in decision.outcomes if o.drifted}


def test_the_segment_that_changed_is_named(churn, customers, tmp_path):
    table = draw(customers[1], 6000, 9)
    fiber = table["in_internet_service"] == "Fiber optic"
    table.loc[fiber & (table["in_contract"] == "Two year"), "in_monthly_charges"] *= 1.3
    outcomes = {o.monitor: o for o in drift(churn, tmp_path, table).decision.outcomes}
    assert outcomes["monthly_charges"].drifted
    assert "; most where contract = Two year (2" in outcomes["monthly_charges"].why
    table = draw(customers[1], 6000, 9)
    table["in_monthly_charges"] *= 1.2
    outcomes = {o.monitor: o for o in drift(churn, tmp_path, table).decision.outcomes}
    assert outcomes["monthly_charges"].drifted
    assert "most where" not in outcomes["monthly_charges"].why


def logged(tables, tmp_path):
    """Tables as what one version answered, one after the other."""
    write_sealed(tmp_path / "log", "churn", 1, log_rows(pd.concat(tables, ignore_index=True), CHURN))


def price_change(table, factor):
    changed = table.assign(in_monthly_charges=table["in_monthly_charges"] * factor)
    return changed.assign(out_probability=(changed["out_probability"] * factor**0.5).clip(0, 1))


@pytest.mark.parametrize(("later", "answered"), [(1.25, True), (1.6, False)])
def test_a_shift_that_a_retrained_version_has_known_from_its_first_rows_is_answered(
    churn, customers, tmp_path, later, answered
):
    tables = [price_change(draw(customers[1], 4000, 20), 1.25), price_change(draw(customers[1], 6000, 21), later)]
    logged(tables, tmp_path)
    by_hand, made_by_retrain = drift(churn, tmp_path), drift(churn, tmp_path, retrained=True)
    assert by_hand.decision.retrain
    assert all(window.since_first is None for window in by_hand.windows)
    decision = made_by_retrain.decision
    assert decision.status == "drift"
    assert (decision.answered, decision.retrain) == (answered, not answered)
    assert all(window.since_first for window in made_by_retrain.windows)
    if answered:
        assert decision.summary.endswith("no retrain: a retrain made this version, and it has been so since")


def test_a_retrained_version_is_not_compared_with_its_first_rows_before_it_has_more(churn, customers, tmp_path):
    logged([price_change(draw(customers[1], 4000, 22), 1.25)], tmp_path)
    result = drift(churn, tmp_path, retrained=True)
    assert [len(window.since_first or ()) for window in result.windows] == [0, len(result.windows[1].since_first or ())]
    assert result.windows[1].since_first
    assert result.decision.answered


def test_ten_times_the_rows_cost_about_ten_times_as_much(churn, customers):
    reference: Reference = load_reference(churn)
    seconds: dict[int, float] = {}
    for rows in (2_000, 10_000, 100_000):  # the first is for what the first call alone takes
        table = draw(customers[1], 2 * rows, 8)
        started = time.process_time()
        assert len(score_windows(table, reference, SETTINGS.model_copy(update={"window_rows": rows}), seed=0)) == 2
        seconds[rows] = time.process_time() - started
    assert seconds[100_000] < 50 * seconds[10_000]


def test_recommendations_are_told_with_their_coverage_and_popularity(movies, tmp_path):
    bundle = movies[0]
    frame = load_reference(bundle).frame
    popular = frame["in_item_id"].value_counts().index
    rows = pd.DataFrame({"in_user_id": 1, "in_item_id": [*popular[:40], *popular[60:100]] * 10, "out_rating": 4.0})
    common = {"kind": "recommend", "arm": "stable", "code": "OK"}
    ids = [f"r{number // 20:05d}" for number in range(800)]
    positions = np.arange(800, dtype=np.int32) % 20
    listed = {name: [value] * 800 for name, value in common.items()}
    write_sealed(tmp_path / "log", "movies", 1, log_rows(rows, RATING, prediction_id=ids, row=positions, **listed))
    empty = rows.head(2)
    nothing = {"in_item_id": [None, None], "out_rating": [None, None], "kind": ["recommend"] * 2}
    logged_empty = log_rows(empty, RATING, prediction_id=["z1", "z2"], **nothing)
    write_sealed(tmp_path / "log", "movies", 1, logged_empty, stem="20260101T000000-1-2")
    found = drift(bundle, tmp_path).recommended
    assert found is not None
    assert (found.lists, found.empty_lists, found.items) == (42, 2, 800)
    assert found.coverage == pytest.approx(80 / len(load_reference(bundle).vocabularies["item_id"]))
    assert found.top_share == pytest.approx(0.5)
    assert found.asked_top_share == pytest.approx(frame["in_item_id"].isin(popular[:50]).mean())
    assert drift(bundle, tmp_path, frame.head(10)).recommended is None
