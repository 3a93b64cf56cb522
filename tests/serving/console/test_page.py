"""The console in a real browser: what it shows, on what screens, by keyboard, to a screen reader, and while things change."""

import json
import threading
from collections import Counter
from collections.abc import Generator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from driftwheel.rollout import promote
from monitoring.canary.looks import Looks, keep_looks
from monitoring.ledger import Ledger
from serving.access import Role
from serving.front_door import running
from serving.tokens import add_token
from tests.chromium import Chromium
from tests.serving.conftest import BY, Live, connected, prepared_home
from tests.serving.console.conftest import HOSTILE, add_drift, add_retrain, with_history

pytestmark = pytest.mark.system

DRAWN = "document.getElementById('versions')?.textContent.includes('version 1')"

TOO_WIDE = """[...document.querySelectorAll('body *')].filter((one) => {
  const box = one.getBoundingClientRect();
  return box.width && !one.closest('.skip, .unseen, thead') && (box.right > innerWidth + 1 || box.left < -1);
}).map((one) => one.outerHTML.slice(0, 120))"""

FAINT = """(() => {
  const light = (colour) => {
    const [r, g, b] = colour.match(/[\\d.]+/g).slice(0, 3).map((part) => {
      const share = part / 255;
      return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (one) => {
    while (one && getComputedStyle(one).backgroundColor.endsWith(', 0)')) one = one.parentElement;
    return getComputedStyle(one ?? document.body).backgroundColor;
  };
  const faint = [];
  for (const one of document.querySelectorAll('body *')) {
    if (![...one.childNodes].some((node) => node.nodeType === 3 && node.data.trim()) || !one.checkVisibility()) continue;
    const style = getComputedStyle(one);
    const [a, b] = [light(one.ownerSVGElement ? style.fill : style.color), light(ground(one))];
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (contrast < 4.5) faint.push(`${contrast.toFixed(2)} ${one.outerHTML.slice(0, 100)}`);
  }
  return faint;
})()"""
"""Text whose contrast is below the 4.5 of WCAG 2.2's level AA."""


@pytest.fixture
def browser(tmp_path: Path) -> Generator[Chromium]:
    with Chromium(tmp_path) as chromium:
        chromium.show(1280)
        yield chromium


@pytest.fixture
def changing(tmp_path: Path) -> Generator[Live]:
    """A server over a home of the test's own."""
    settings = with_history(prepared_home(tmp_path / "home"))
    with running(settings) as (door, address), connected(settings, door, address) as server:
        yield server


def show(browser: Chromium, server: Live, model: str = "mf") -> None:
    browser.open(f"{server.address.url}/console#{model}")
    browser.wait_for(DRAWN)


def text_of(browser: Chromium, name: str) -> str:
    return browser.evaluate(f"document.getElementById('{name}').innerText")


def name_of_focus(browser: Chromium) -> str:
    return browser.evaluate("document.activeElement.id || document.activeElement.textContent.trim()")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 960, 400])
def test_it_shows_all_and_fits(eventful: Live, browser: Chromium, width: int, scheme: str, tmp_path: Path) -> None:
    for user in range(40):  # who is in which arm is drawn anew for every rollout
        eventful.http.post("/v1/recommend", json={"user_id": user})
    browser.show(width, scheme=scheme)
    show(browser, eventful)
    browser.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    assert "Version 2 gets 25 %" in text_of(browser, "rollout")
    assert "STEP" in text_of(browser, "rollout")
    assert "p99" in text_of(browser, "rollout")
    assert "prediction score" in text_of(browser, "drift")
    assert "25 % of the catalogue in 420 lists, 6 empty; 50 % of what they hold" in text_of(browser, "drift")
    assert browser.evaluate("document.querySelectorAll('#drift rect.drifted').length") == 2
    assert "interrupted" in text_of(browser, "retrains")
    assert "in service" in text_of(browser, "versions")
    assert "ready" in text_of(browser, "health")
    browser.wait_for("document.querySelector('#traffic table')?.innerText.includes('stable')")
    assert browser.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert browser.evaluate(TOO_WIDE) == []
    assert browser.evaluate(FAINT) == []
    dark = browser.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(15, 20, 26)"
    assert dark == (scheme == "dark")
    browser.screenshot(tmp_path / f"console-{width}-{scheme}.png")
    assert browser.complaints == []
    assert {address for address in browser.requests if not address.startswith(f"{eventful.address.url}/")} == set()


def test_several_on_trial_stand_side_by_side(eventful: Live, browser: Chromium, tmp_path: Path) -> None:
    for _ in range(120):  # each draws its arm
        assert eventful.http.post("/v1/churn", json={"customers": [{}]}).status_code == 200
    for width in (1280, 390):
        browser.show(width)
        show(browser, eventful, "churn")
        browser.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
        assert "Versions 2 and 4 get 20 % each" in text_of(browser, "rollout")
        assert "versions 2 and 4 at 20 % each" in text_of(browser, "models")
        judged, compared = browser.evaluate(
            "[...document.querySelectorAll('#rollout > table')].map((table) => [...table.rows].map((row) =>"
            "[...row.cells].map((cell) => cell.innerText.replace(/\\s+/g, ' ').trim())))"
        )
        states = [(row[0], row[1][1:].strip(), row[2][1:].strip()) for row in judged[1:]]  # without their signs
        assert states == [
            ("version 2", "on trial", "STEP"),
            ("version 3", "dropped", "ABORT"),
            ("version 4", "on trial", "STEP"),
        ]
        assert compared[0] == ["Check", "Version 2", "Version 3", "Version 4"]
        errors = next(row for row in compared if row[0] == "many errors")
        assert ["worse" in cell for cell in errors[1:]] == [False, True, False]
        assert all("control 0" in cell for cell in errors[1:])
        browser.wait_for("document.querySelector('#traffic table')?.innerText.includes('candidate')")
        looks = "[...document.querySelectorAll('#traffic .swatch path.candidate')].map((one) => one.classList.length)"
        assert browser.evaluate(looks) == [2, 3]  # the second candidate's line does not look like the first's
        assert browser.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert browser.evaluate(TOO_WIDE) == []
        assert browser.evaluate(FAINT) == []
        browser.screenshot(tmp_path / f"several-{width}.png")
    assert browser.complaints == []


def test_names_of_the_data_are_text(eventful: Live, browser: Chromium) -> None:
    show(browser, eventful)
    assert HOSTILE in text_of(browser, "drift")
    assert browser.evaluate("document.images.length") == 0
    assert browser.evaluate("document.title") == "mf - Driftwheel console"


def test_one_can_go_everywhere_by_keyboard(eventful: Live, browser: Chromium) -> None:
    show(browser, eventful)
    reached: list[str] = []
    while (not reached or reached[-1] != "Metrics") and len(reached) < 40:
        browser.press("Tab")
        reached.append(name_of_focus(browser))
        style = "getComputedStyle(document.activeElement)"
        assert browser.evaluate(f"{style}.outlineStyle !== 'none' && parseFloat({style}.outlineWidth) >= 1"), reached
    assert reached == [
        "Skip to the content", "pause", "to-churn", "to-mf", "go-traffic", "go-rollout", "go-drift", "go-retrains",
        "go-versions", "verdicts-mf-title", "changes-mf-title", "gates-mf-title", "drifts-mf-title", "API", "Metrics",
    ]  # fmt: skip
    browser.evaluate("document.getElementById('verdicts-mf-title').focus()")
    browser.press("Enter")
    browser.wait_for("document.getElementById('verdicts-mf').open")
    browser.evaluate("document.getElementById('go-drift').focus()")
    browser.press("Enter")
    browser.wait_for("document.activeElement.id === 'drift-title'")
    browser.evaluate("document.getElementById('to-churn').focus()")
    browser.press("Enter")
    browser.wait_for("document.activeElement.id === 'model-title' && document.activeElement.textContent === 'churn'")
    assert browser.complaints == []


@pytest.mark.parametrize("width", [1280, 400])
def test_a_screen_reader_finds_tables_headings_and_names(eventful: Live, browser: Chromium, width: int) -> None:
    browser.show(width)
    eventful.http.post("/v1/recommend", json={"user_id": 15})
    show(browser, eventful)
    browser.wait_for("document.querySelector('#traffic table')")
    nodes = browser.call("Accessibility.getFullAXTree")["nodes"]
    seen = [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes if not node["ignored"]]
    tables = {name for role, name in seen if role == "table"}
    assert {"All models", "Retrains, newest first"} <= tables
    assert "" not in tables
    assert len(tables) == 6
    roles = Counter(role for role, _ in seen)
    assert roles["row"] > 12
    assert roles["rowheader"] > 8
    assert roles["columnheader"] > 20
    for role in ("button", "link", "image", "heading", "region"):
        names = [name for found, name in seen if found == role]
        assert names, role
        assert "" not in names, role
    levels = browser.evaluate(
        "[...document.querySelectorAll('h1,h2,h3')].filter((one) => one.checkVisibility()).map((one) => one.tagName)"
    )
    assert levels == ["H1", "H2", "H2", "H3", "H3", "H3", "H3", "H3"]
    assert browser.evaluate("document.querySelectorAll('[role=status], [role=alert]').length") == 3


def test_the_page_reads_metrics_as_prometheus_does(eventful: Live, browser: Chromium) -> None:
    show(browser, eventful)
    for user in range(5):
        eventful.http.post("/v1/recommend", json={"user_id": user})
    text = eventful.http.get("/metrics").text
    families = list(text_string_to_metric_families(text))
    samples = [one for family in families for one in family.samples if one.labels.get("model") == "mf"]
    asked = sum(one.value for one in samples if one.name == "driftwheel_request_duration_seconds_count")
    odd = r'driftwheel_x{a="1\"},2\\",b=""} 3'
    script = f"""import('/console/exposition.js').then((read) => {{
      const arms = [...read.counts(read.parse({json.dumps(text)}), 'mf').values()];
      const buckets = new Map([[0.1, 50], [0.2, 90], [Infinity, 100]]);
      const [before, after] = [{{ requests: 70, errors: 2, buckets }}, {{ requests: 100, errors: 4, buckets }}];
      const began = read.difference(after, before, 2);
      return {{
        requests: arms.reduce((sum, arm) => sum + arm.requests, 0),
        observed: arms.reduce((sum, arm) => sum + arm.buckets.get(Infinity), 0),
        quantiles: [0.25, 0.5, 0.7, 0.95].map((share) => String(read.quantile(share, buckets).toFixed(4))),
        rate: read.difference(before, after, 2).rate,
        afresh: [began.requests, began.errors],
        labels: read.parse({json.dumps(odd)}).get('driftwheel_x')[0],
      }};
    }})"""
    assert browser.evaluate(script) == {
        "requests": sum(one.value for one in samples if one.name == "driftwheel_requests_total"),
        "observed": asked,
        "quantiles": ["0.0500", "0.1000", "0.1500", "Infinity"],
        "rate": 15,
        "afresh": [70, 2],
        "labels": {"labels": {"a": '1"},2\\', "b": ""}, "value": 3},
    }


def test_traffic_is_drawn_while_it_goes(changing: Live, browser: Chromium) -> None:
    show(browser, changing)
    assert "Nobody has asked this model" in text_of(browser, "traffic")
    over = threading.Event()

    def ask() -> None:
        user = 0
        while not over.is_set():
            user += 1
            changing.http.post("/v1/recommend", json={"user_id": user})

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        for arm in ("stable", "candidate"):
            browser.wait_for(f"document.querySelector('#traffic path.line.{arm}[d*=L]')")
    finally:
        over.set()
        asking.join()
    row = browser.evaluate("[...document.querySelectorAll('#traffic tbody tr')].map((row) => row.innerText).join()")
    assert "candidate" in row
    assert "0 %" in row
    assert "ms" in row or "µs" in row
    label = browser.evaluate("document.querySelector('#traffic svg[role=img]').getAttribute('aria-label')")
    assert label.startswith("Requests per second. Newest: stable, version 1")


def test_news_is_said_and_what_was_open_stays_open(changing: Live, browser: Chromium) -> None:
    show(browser, changing)
    browser.evaluate("document.getElementById('verdicts-mf-title').focus()")
    browser.press("Enter")
    ledger = Ledger(changing.settings.ledger)
    look = ledger.latest("mf", "verdict")[0].payload
    look["verdict"]["reasons"] = ["all is as before"]
    trial, later = look["rollout"]["started_at"], "2026-01-09T01:00:00+00:00"
    keep_looks(changing.settings.looks, "mf", Looks(started_at=trial, at=later, payloads={"2": look}))
    browser.wait_for("document.getElementById('rollout').innerText.includes('all is as before')")
    assert text_of(browser, "news") == ""  # it is no entry of the ledger
    add_drift(ledger, 7, 0.5)
    add_retrain(ledger, 8, None)
    promote(changing.settings.rollouts, "mf", **BY)
    browser.wait_for("document.getElementById('rollout').innerText.includes('Version 2 gets all traffic')")
    browser.wait_for("document.getElementById('retrains').innerText.includes('not finished')")
    assert "Last verdict" in text_of(browser, "rollout")
    assert text_of(browser, "news").startswith("mf: ")
    assert browser.evaluate("document.getElementById('verdicts-mf').open")
    assert name_of_focus(browser) == "verdicts-mf-title"
    assert browser.complaints == []


def test_updates_can_be_paused(changing: Live, browser: Chromium) -> None:
    show(browser, changing)
    browser.evaluate("document.getElementById('pause').focus()")
    browser.press(" ")
    assert browser.evaluate("document.getElementById('pause').getAttribute('aria-pressed')") == "true"
    browser.evaluate("new Promise((done) => setTimeout(done, 500))")  # what was under way has ended
    browser.requests.clear()
    browser.evaluate("new Promise((done) => setTimeout(done, 3000))")
    assert browser.requests == []
    browser.press(" ")
    browser.evaluate("new Promise((done) => setTimeout(done, 500))")
    assert browser.requests != []


def test_a_server_that_is_gone_is_told(tmp_path: Path, browser: Chromium) -> None:
    settings = with_history(prepared_home(tmp_path / "home"))
    with running(settings) as (door, address), connected(settings, door, address) as server:
        show(browser, server)
    browser.wait_for("!document.getElementById('fault').hidden")
    assert "The server does not answer as it should" in text_of(browser, "fault")
    assert "Version 2 gets 25 %" in text_of(browser, "rollout")


def test_the_report_opens_in_a_tab_and_a_site_of_its_own(eventful: Live, browser: Chromium) -> None:
    show(browser, eventful, "churn")
    assert "Without labels: " in text_of(browser, "drift")
    browser.evaluate("document.getElementById('report-newest').focus()")
    browser.press("Enter")
    browser.follow_new_tab("/console/reports/churn/")
    browser.wait_for("document.readyState === 'complete'")
    browser.wait_for("document.body?.innerText.includes('Monitors, with thresholds calibrated on the reference')")
    assert browser.evaluate("origin") == "null"
    browser.wait_for("document.body?.innerText.includes('Dataset Drift')")  # Evidently's own part is drawn


def test_signing_in_and_out(tmp_path: Path, browser: Chromium) -> None:
    file = tmp_path / "tokens.toml"
    token = add_token(file, "looker", frozenset({Role.CONSOLE}))
    settings = with_history(prepared_home(tmp_path / "home", security={"token_file": file}))
    with running(settings) as (door, address), connected(settings, door, address) as server:
        browser.open(f"{server.address.url}/console")
        browser.wait_for("document.activeElement?.id === 'token'")
        assert browser.evaluate("document.getElementById('data').hidden")
        for typed, then in (
            ("dw_wrong", "document.getElementById('sign-in-fault').textContent"),
            (token, "!document.getElementById('data').hidden"),
        ):
            browser.evaluate("document.getElementById('token').value = ''")
            browser.type(typed)
            browser.press("Enter")
            browser.wait_for(then)
        browser.wait_for(DRAWN)
        assert browser.evaluate("[document.cookie, localStorage.length, sessionStorage.length]") == ["", 0, 0]
        browser.open(f"{server.address.url}/console#mf")
        browser.wait_for("document.getElementById('sign-in').hidden && " + DRAWN)
        browser.evaluate("document.getElementById('sign-out').click()")
        browser.wait_for("!document.getElementById('sign-in').hidden")
        assert browser.evaluate("document.getElementById('rollout').checkVisibility()") is False
