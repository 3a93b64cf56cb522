"""A real Prometheus scrapes a real server and watcher; a real Alertmanager fires the webhook that retrains."""

import dataclasses
import json
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pandas as pd
import pytest
import yaml

from driftwheel.bundle import bundle_folder, read_manifest
from driftwheel.client import Client
from driftwheel.settings import DriftSettings, Settings, TrainingSettings
from driftwheel.wheel.clock import now
from driftwheel.wheel.connecting import connect
from driftwheel.wheel.lifecycle import enter, make_version
from driftwheel.wheel.monitoring_files import Places, export_files
from driftwheel.wheel.monitoring_secrets import ensure_token
from driftwheel.wheel.progress import SILENT
from driftwheel.wheel.replay import replay
from driftwheel.wheel.server import ensured_server, wait_until_loaded
from driftwheel.wheel.sources import Sources, remember
from driftwheel.wheel.watching import check_drift
from monitoring.drift.decision import record
from monitoring.drift.job import run_drift
from monitoring.ledger import Entry, Ledger
from monitoring.windows import read_feedback, read_predictions
from tests.monitoring.worlds import RATING, log_rows, make_bundle, movielens, write_sealed
from tests.test_wheel import free_port
from tests.training.samples import in_this_process
from training.config import BoostingConfig
from training.data.sources import CustomersSource, RatingsSource
from training.data.tables import packaged_table

ALERTMANAGER = shutil.which("prometheus-alertmanager")

pytestmark = [
    pytest.mark.system,
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("prometheus") is None, reason="needs the Debian package prometheus"),
    pytest.mark.skipif(ALERTMANAGER is None, reason="needs the Debian package prometheus-alertmanager"),
]

WINDOW = 300

UNTOLD = {
    # No judge has looked here, and customers have no times.
    "Driftwheel: canary: Loss of labelled predictions",
    "Driftwheel: canary: Since the judge looked",
    "Driftwheel: training and retraining: Age of its newest row",
    # This server has no feature store; tests/serving/test_features.py has one that does.
    "Driftwheel: capacity: Age",
    "Driftwheel: capacity: Customers",
    "Driftwheel: capacity: Missing values",
    "Driftwheel: capacity: Store failures",
    "Driftwheel: capacity: Store latency",
}
"""Panels that have nothing to show."""


@dataclasses.dataclass
class Stack:
    """Everything that runs."""

    settings: Settings
    prometheus: str
    files: Path

    def query(self, expr: str) -> list[dict[str, Any]]:
        answer = httpx.get(f"{self.prometheus}/api/v1/query", params={"query": expr}, trust_env=False).json()
        assert answer["status"] == "success", (expr, answer)
        return answer["data"]["result"]


def until(reached: Callable[[], Any], *, within_s: float = 120) -> Any:
    """What ``reached`` answers, once that is something."""
    give_up = time.monotonic() + within_s
    while not (answer := reached()):
        assert time.monotonic() < give_up, "it did not come"
        time.sleep(0.2)
    return answer


@contextmanager
def running(command: list[str | Path], folder: Path, **options: Any) -> Generator[None]:
    """A process while the block lasts; what it said is shown if the block fails."""
    words = folder / f"{Path(command[0]).name}-{free_port()}.log"
    with words.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, cwd=folder, **options)
    try:
        yield
        assert process.poll() is None, words.read_text()[-2000:]
    finally:
        process.terminate()
        process.wait(30)


def quick(files: Path) -> None:
    """The exported files as they are, but for how long they wait."""
    rules = files / "prometheus/rules/driftwheel.yaml"
    rules.write_text(re.sub(r"for: \w+", "for: 0s", rules.read_text()))
    config = files / "prometheus/prometheus.yml"
    config.write_text(config.read_text().replace(": 15s", ": 1s"))
    alertmanager = files / "alertmanager/alertmanager.yml"
    alertmanager.write_text(alertmanager.read_text().replace("group_wait: 30s", "group_wait: 0s"))


def first_version(settings: Settings, folder: Path) -> pd.DataFrame:
    """A model of two thousand customers in service; the others are returned, with what is asked about them."""
    table = packaged_table("modeldata", "wa_churn")
    table.head(2000).to_csv(folder / "customers.csv", index=False)
    customers = CustomersSource(path=str(folder / "customers.csv"), id_column="rownames")
    sources = Sources(ratings=RatingsSource(), customers=customers)
    remember(settings, sources)
    dataset = sources.prepare("churn", settings, until=None, learn=False)
    with in_this_process():
        made = make_version(settings, "churn", dataset, SILENT, base=BoostingConfig(epochs=20))
    assert enter(settings, made, by="test")[0] == "in service"
    everybody = dataclasses.replace(customers, path=str(folder / "all.csv"))
    table.tail(-2000).to_csv(folder / "all.csv", index=False)
    rows, _ = dataclasses.replace(sources, customers=everybody).traffic("churn", settings, since="2000-01-01")
    return rows


def ask_dearer(client: Client, settings: Settings, rows: pd.DataFrame) -> None:
    """Traffic of customers who pay far more than those who were learned from."""
    signature = read_manifest(bundle_folder(settings.models, "churn", 1)).signature
    dearer = rows.head(3 * WINDOW).assign(
        monthly_charges=rows["monthly_charges"] * 2, tenure=1.0, contract="Month-to-month"
    )
    report = replay(client, "churn", signature, dearer)
    assert report.sent == report.labelled == 3 * WINDOW


def watch_a_recommender(settings: Settings, folder: Path) -> None:
    """A drift job over the lists of a recommender that this server does not have; its decision is in the ledger."""
    frame = movielens("2016-01-01")[0].tail(2000)
    bundle = make_bundle(folder / "movies", "movies", "rating", RATING, frame)
    lists = frame[["in_item_id", "in_user_id", "out_rating"]].head(400)
    rows = log_rows(lists, RATING, prediction_id=[f"list{n // 10:04d}" for n in range(400)], kind=["recommend"] * 400)
    write_sealed(folder / "movies-log", "movies", 1, rows)
    made = run_drift(
        log=folder / "movies-log", bundle=bundle, reports=folder, settings=settings.drift, now=now(), html=False
    )
    payload = record(made.windows, settings.drift, made.decision, version=1, recommended=made.recommended)
    Ledger(settings.ledger).append("drift", "movies", at=now(), summary=made.decision.summary, payload=payload)


@contextmanager
def going_on(client: Client, settings: Settings, rows: pd.DataFrame) -> Generator[None]:
    """A little traffic with feedback while the block lasts: rates are of counters that rise between two scrapes."""
    signature = read_manifest(bundle_folder(settings.models, "churn", 1)).signature
    ended = threading.Event()

    def ask() -> None:
        while not ended.wait(0.5):
            replay(client, "churn", signature, rows)

    with ThreadPoolExecutor(1) as thread:
        asking = thread.submit(ask)
        try:
            yield
        finally:
            ended.set()
            asking.result()


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Generator[Stack]:
    folder = tmp_path_factory.mktemp("stack")
    settings = Settings(
        home=folder / "home",
        training=TrainingSettings(ranks=1),
        drift=DriftSettings(window_rows=WINDOW),
    )
    settings = settings.model_copy(
        update={"serving": settings.serving.model_copy(update={"port": free_port()})},
    )
    rows = first_version(settings, folder)
    token_file = folder / "tokens.toml"
    watcher, prometheus, alertmanager = (free_port() for _ in range(3))
    with ExitStack() as parts:
        address = parts.enter_context(ensured_server(settings))
        places = Places(
            servers=(address.target,),
            watcher=f"localhost:{watcher}",
            alertmanager=f"localhost:{alertmanager}",
            prometheus=f"http://localhost:{prometheus}",
        )
        files = folder / "files"
        export_files(files, places)
        quick(files)
        ensure_token(files, token_file)
        serve = ["monitoring", "serve", "--port", str(watcher), "--token-file", str(token_file)]
        environment = settings.child_environment()
        parts.enter_context(running([sys.executable, "-m", "driftwheel", *serve], folder, env=environment))
        parts.enter_context(running(
            ["prometheus", f"--config.file={files}/prometheus/prometheus.yml", f"--storage.tsdb.path={folder}/tsdb",
             f"--web.listen-address=127.0.0.1:{prometheus}", "--query.lookback-delta=1m"], folder,
        ))  # fmt: skip
        assert ALERTMANAGER is not None
        parts.enter_context(running(
            [ALERTMANAGER, f"--config.file={files}/alertmanager/alertmanager.yml", f"--storage.path={folder}/silences",
             f"--web.listen-address=127.0.0.1:{alertmanager}", "--cluster.listen-address="], folder,
        ))  # fmt: skip
        with connect(settings, address.target) as client:
            wait_until_loaded(client, "churn", 1)
            made = Stack(settings, places.prometheus, files)
            until(lambda: _scraped(made))
            ask_dearer(client, settings, rows)
            until(lambda: len(read_feedback(settings.prediction_log, "churn")) >= 3 * WINDOW)
            until(lambda: len(read_predictions(settings.prediction_log, "churn")) >= 3 * WINDOW)
            assert check_drift(settings, "churn", html=False).decision.retrain
            watch_a_recommender(settings, folder)
            with going_on(client, settings, rows.tail(5)):
                yield made


def _scraped(stack: Stack) -> bool:
    try:
        ready = httpx.get(f"{stack.prometheus}/-/ready", trust_env=False).status_code == httpx.codes.OK
        return ready and len(stack.query("up == 1")) == 2
    except httpx.TransportError:
        return False


def finished(settings: Settings) -> list[Entry]:
    entries = Ledger(settings.ledger).entries("churn", "retrain")
    return [entry for entry in entries if entry.payload["event"] == "finished"]


def test_alertmanager_fires_the_webhook_that_retrains_once(stack: Stack) -> None:
    (entry,) = until(lambda: finished(stack.settings), within_s=200)
    assert entry.payload["trigger"] == "alert"
    assert entry.payload["reason"].startswith("alert: DriftwheelRetrainWanted (")
    assert entry.payload["result"] in {"on trial", "refused"}, entry.summary
    series = until(lambda: stack.query("driftwheel_retrains_total"))
    assert series[0]["metric"]["reason"] == "alert"
    assert len(finished(stack.settings)) == 1


def test_every_dashboard_query_has_data(stack: Stack) -> None:
    until(lambda: finished(stack.settings), within_s=200)
    queries = {}
    for path in (stack.files / "grafana/dashboards/driftwheel").glob("*.json"):
        page = json.loads(path.read_text())
        for panel in page["panels"]:
            for target in panel.get("targets", ()):
                queries[target["expr"]] = f"{page['title']}: {panel['title']}"
        for annotation in page["annotations"]["list"]:
            queries[annotation["expr"]] = ""  # these mark moments
    assert len(queries) > 60
    waiting = {_resolved(expr): where for expr, where in queries.items() if where}
    give_up = time.monotonic() + 60
    while set(waiting.values()) - UNTOLD and time.monotonic() < give_up:
        waiting = {expr: where for expr, where in waiting.items() if not stack.query(expr)}
        time.sleep(0.5)
    assert set(waiting.values()) == UNTOLD
    for expr, where in queries.items():
        if not where:
            stack.query(_resolved(expr))  # without an error


def _resolved(expr: str) -> str:
    """As Grafana does it."""
    for name, value in (("$__rate_interval", "1m"), ("$__interval", "1m"), ("$model", ".+")):
        expr = expr.replace(name, value)
    assert "$" not in expr, expr
    return expr


def test_every_rule_is_evaluated_without_an_error(stack: Stack) -> None:
    groups = httpx.get(f"{stack.prometheus}/api/v1/rules", trust_env=False).json()["data"]["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    wanted = yaml.safe_load((stack.files / "prometheus/rules/driftwheel.yaml").read_text())["groups"]
    assert len(rules) == sum(len(group["rules"]) for group in wanted)
    assert {rule["health"] for rule in rules} == {"ok"}, [rule["lastError"] for rule in rules if "lastError" in rule]
    for rule in rules:
        for alert in rule.get("alerts", ()):
            assert "error expanding" not in alert["annotations"]["summary"]


def test_every_metric_that_rules_name_is_there(stack: Stack) -> None:
    rules = [
        rule
        for group in yaml.safe_load((stack.files / "prometheus/rules/driftwheel.yaml").read_text())["groups"]
        for rule in group["rules"]
    ]
    named = {name for rule in rules for name in re.findall(r"(?<![:\w])driftwheel_\w+", rule["expr"])}
    assert len(named) > 25
    scraped = httpx.get(f"{stack.prometheus}/api/v1/metadata", trust_env=False).json()["data"]
    declared = {name.removesuffix("_total") for name in scraped}
    bare = {re.sub(r"_(total|bucket|count|sum)$", "", name) for name in named}
    assert bare - declared == set()
