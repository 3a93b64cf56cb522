import json

import numpy as np

from driftwheel.settings import DriftSettings
from monitoring.drift.job import run_drift
from monitoring.drift.report import expire_reports
from tests.monitoring.worlds import CHURN, RATING, make_bundle, movielens, telco

NOW = "2026-01-02T03:04:05+00:00"


def report(tmp_path, bundle, window):
    return run_drift(
        log=tmp_path / "log", bundle=bundle, reports=tmp_path / "reports", settings=DriftSettings(), now=NOW,
        window=window,
    )  # fmt: skip


def test_customers_with_an_empty_column(tmp_path):
    table = telco()
    bundle = make_bundle(tmp_path / "models", "churn", "churn", CHURN, table.head(3000))
    window = table.tail(4000).assign(in_contract=None, in_tenure=np.nan)
    result = report(tmp_path, bundle, window)
    assert result.report_html == tmp_path / "reports" / "churn-1-20260102T0304050000.html"
    assert result.report_json is not None
    page = result.report_html.read_text()
    content = json.loads(result.report_json.read_text())
    assert "<title>Drift of churn, version 1</title>" in page
    assert "broken data" in page
    assert not [host for host in ("https://fonts", "cdn.jsdelivr", "unpkg.com") if host in page]
    assert "Columns without values on one side: contract, tenure." in page
    assert content["left_out"] == ["contract", "tenure"]
    assert content["decision"]["status"] == "broken data"
    columns = {metric["config"].get("column") for metric in content["evidently"]["metrics"]}
    assert {"monthly_charges", "internet_service", "prediction probability", "label churn"} <= columns
    assert not columns & {"contract", "tenure"}
    assert sorted(path.suffix for path in (tmp_path / "reports").iterdir()) == [".html", ".json"]


def test_ids_are_shown_by_popularity_and_acquaintance(tmp_path):
    table, learned = movielens("2005")
    reference = table[table["at"] >= "2005"].head(10_000)
    bundle = make_bundle(tmp_path / "models", "movies", "rating", RATING, reference, learned=learned)
    result = report(tmp_path, bundle, table.tail(6000))
    assert result.report_json is not None
    content = json.loads(result.report_json.read_text())
    columns = {metric["config"].get("column") for metric in content["evidently"]["metrics"]} - {None}
    assert columns == {
        "user_id known",
        "item_id popularity (0: most popular)",
        "item_id known",
        "prediction rating",
        "label rating",
    }
    statuses = {test["status"] for test in content["evidently"]["tests"]}
    assert statuses <= {"SUCCESS", "FAIL"}


def test_the_oldest_reports_go_whatever_version_they_are_of(tmp_path):
    days = [("10", "20260101"), ("10", "20260102"), ("9", "20260103"), ("11", "20260104")]
    names = [f"mf-{version}-{day}T0304050000" for version, day in days]
    for name in names:
        (tmp_path / f"{name}.html").touch()
        (tmp_path / f"{name}.json").touch()
    others = ["training-10.html", "notes.html"]
    for name in others:
        (tmp_path / name).touch()
    expire_reports(tmp_path, 4)
    assert len(list(tmp_path.iterdir())) == 10
    expire_reports(tmp_path, 2)
    kept = {path.name for path in tmp_path.iterdir()}
    assert kept == {*others, *(f"{name}.{kind}" for name in names[2:] for kind in ("html", "json"))}
