"""The committed dashboards are those of the sources, and ask for nothing that no rule or metric makes."""

import json
import re

import pytest

from monitoring.alerts.rules import RULES
from monitoring.dashboards.build import FOLDER, dashboards

PAGES = dashboards()


def test_the_committed_files_are_up_to_date():
    committed = {path.name: path.read_text() for path in FOLDER.glob("*.json")}
    assert committed == PAGES, "run python -m monitoring.dashboards.build"


@pytest.mark.parametrize("name", sorted(PAGES))
def test_a_dashboard_is_whole(name: str):
    page = json.loads(PAGES[name])
    assert page["uid"] == f"driftwheel-{name.removesuffix('.json')}"
    assert {variable["name"] for variable in page["templating"]["list"]} == {"datasource", "model"}
    assert {annotation["name"] for annotation in page["annotations"]["list"]} == {"Rollouts", "Verdicts", "Retrains"}
    runbooks = [link["url"] for link in page["links"] if link["type"] == "link"]
    assert runbooks
    for url in runbooks:
        assert (FOLDER.parents[2] / url).exists(), url
    for panel in page["panels"]:
        for target in panel.get("targets", ()):
            assert target["datasource"]["uid"] == "${datasource}"


def test_every_recorded_series_that_is_asked_for_is_recorded():
    asked = {name for page in PAGES.values() for name in re.findall(r"model\w*:driftwheel_\w+:\w+", page)}
    assert asked
    recorded = set(re.findall(r"record: (\S+)", RULES.read_text()))
    assert asked <= recorded
