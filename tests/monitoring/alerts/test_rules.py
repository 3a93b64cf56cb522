"""Every alert fires when it should and not otherwise, as promtool sees it; each has its runbook."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from monitoring.alerts.objectives import FAULTS, LATENCY_S
from monitoring.alerts.rules import RULES, alerts, rules_yaml
from monitoring.metrics import LATENCY_BUCKETS_S
from serving.codes import _CODES, INTERNAL
from tests.monitoring.alerts.cases import CASES, Case, Series

ROOT = Path(__file__).parents[3]
RUNBOOKS = ROOT / "docs/runbooks"

needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="needs the Debian package prometheus")


def _world(series: Series, case: Case, *, firing: bool) -> dict[str, object]:
    labels = "".join(f',{key}="{value}"' for key, value in case.labels.items())
    expr = f'count(ALERTS{{alertname="{case.alert}",alertstate="firing"{labels}}})'
    return {
        "interval": case.step,
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [
            {
                "expr": expr,
                "eval_time": case.at,
                "exp_samples": [{"labels": "{}", "value": 1}] if firing else [],
            }
        ],
    }


def _rules_for(case: Case) -> dict[str, object]:
    """The committed rules that an alert is made of: promtool evaluates everything in a file, again and again."""
    rules = [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]
    kept = [rule for rule in rules if rule.get("alert") == case.alert and case.labels.items() <= rule["labels"].items()]
    assert kept
    for rule in reversed(rules):  # a recording stands before what uses it
        name = rule.get("record")
        if name is not None and any(re.search(rf"{name}\b", one["expr"]) for one in kept):
            kept.insert(0, rule)
    return {"groups": [{"name": "all", "rules": kept}]}


@needs_promtool
@pytest.mark.system
def test_every_alert_fires_when_it_should_and_not_otherwise(tmp_path: Path) -> None:
    files = []
    for number, case in enumerate(CASES):
        assert case.quiet
        worlds = [_world(case.fires, case, firing=True), *(_world(one, case, firing=False) for one in case.quiet)]
        rules = tmp_path / f"rules-{number}.yaml"
        rules.write_text(json.dumps(_rules_for(case)))  # JSON is YAML
        files.append(tmp_path / f"{number}-{case.alert}.yaml")
        content = {"rule_files": [str(rules)], "evaluation_interval": case.step, "tests": worlds}
        files[-1].write_text(json.dumps(content))
    done = subprocess.run(["promtool", "test", "rules", *files], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
@pytest.mark.system
def test_promtool_accepts_the_rules() -> None:
    done = subprocess.run(["promtool", "check", "rules", "--lint=all", RULES], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_alert_is_left_out_of_the_cases() -> None:
    wanted = {(alert.name, alert.labels.get("window")) for alert in alerts()}
    assert {(case.alert, case.labels.get("window")) for case in CASES} == wanted


def test_the_committed_rules_are_those_of_the_sources() -> None:
    assert RULES.read_text() == rules_yaml(), f"run {sys.executable} -m monitoring.alerts.rules"


@pytest.mark.parametrize("name", sorted({alert.name for alert in alerts()}))
def test_every_alert_has_a_runbook_that_says_what_to_do(name: str) -> None:
    page = (RUNBOOKS / f"{name}.md").read_text()
    assert page.startswith(f"# {name}\n")
    for heading in ("## What it means", "## What to look at", "## What to do"):
        assert heading in page, heading


def test_no_runbook_is_of_an_alert_that_is_gone() -> None:
    assert {path.stem for path in RUNBOOKS.glob("Driftwheel*.md")} == {alert.name for alert in alerts()}


def test_the_latency_objective_is_a_bound_of_the_histogram() -> None:
    assert LATENCY_S in LATENCY_BUCKETS_S


def test_codes_that_count_as_faults_are_codes_of_the_server() -> None:
    names = {code.name for code in (*_CODES.values(), INTERNAL)}
    assert set(FAULTS.split("|")) <= names
