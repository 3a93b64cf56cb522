"""The console's paths on a real server: what they tell, to whom, and what they refuse."""

import asyncio
import re
from pathlib import Path

import httpx
import pytest

from driftwheel.errors import OverloadedError
from serving.access import Access, Role
from serving.console.reports import LARGEST_REPORT
from serving.console.routes import Console
from serving.front_door import running
from serving.tokens import add_token
from serving.transports.routing import Request, Response
from tests.serving.conftest import Live, connected, prepared_home
from tests.serving.console.conftest import HOSTILE, with_history

pytestmark = pytest.mark.system

PAGE = Path(__file__).parents[3] / "serving" / "console" / "page"
DATA = ("/console/api/overview", "/console/api/models/mf", "/console/reports/churn/none.html")


def test_the_overview(eventful: Live) -> None:
    answer = eventful.http.get("/console/api/overview")
    assert answer.headers["cache-control"] == "no-store"
    assert "salt" not in answer.text
    told = answer.json()
    assert [model["name"] for model in told["models"]] == ["churn", "mf"]
    assert told["models"][1]["rollout"]["steps"] == [0.05, 0.25, 0.5, 1.0]
    several = told["models"][0]["rollout"]
    assert (several["candidate"], several["rivals"], several["weight"]) == (2, [4], 0.2)
    assert told["signed_in"] is False


def test_the_history_of_a_model(eventful: Live) -> None:
    told = eventful.http.get("/console/api/models/mf").json()
    assert [verdict["decision"] for verdict in told["verdicts"]] == ["STEP", "HOLD", "HOLD"]
    checks = {check["name"]: check for check in told["verdicts"][0]["checks"]}
    assert checks["errors"]["outcome"] == "fine"
    assert checks["latency"]["candidate"] > 1000
    assert [drift["status"] for drift in told["drifts"]] == ["stable", "drift", "drift", "stable", "stable", "stable"]
    assert {one["monitor"] for one in told["drifts"][0]["outcomes"]} == {f"tenure {HOSTILE}", "prediction score"}
    assert (told["drifts"][0]["recommended"]["empty_lists"], told["drifts"][0]["estimated"]) == (6, None)
    (churn,) = eventful.http.get("/console/api/models/churn").json()["drifts"]
    assert churn["estimated"]["outcome"] in {"fine", "down", "not calibrated"}
    assert 0 < churn["estimated"]["window_loss"] < 0.25
    assert churn["recommended"] is None
    assert [one["result"] for one in told["retrains"]] == ["on trial", "", "refused"]
    assert told["arms"] == told["verdicts"][:1]
    arms = eventful.http.get("/console/api/models/churn").json()["arms"]
    assert [(one["candidate"], one["decision"]) for one in arms] == [(2, "STEP"), (3, "ABORT"), (4, "STEP")]
    assert eventful.http.get("/console/api/models/unheard-of").json()["verdicts"] == []
    assert eventful.http.get("/console/api/models/..%2Fmf").status_code == 404


def test_a_report_is_one_click_away_and_locked_up(eventful: Live) -> None:
    (drift,) = eventful.http.get("/console/api/models/churn").json()["drifts"]
    answer = eventful.http.get(drift["report"])
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert answer.headers["content-encoding"] == "gzip"
    assert "<title>Drift of churn, version 1</title>" in answer.text
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("sandbox allow-scripts; default-src 'none'; ")
    assert "allow-same-origin" not in policy
    plain = eventful.http.get(drift["report"], headers={"accept-encoding": "identity"})
    assert plain.text == answer.text
    assert "content-encoding" not in plain.headers


@pytest.mark.parametrize(
    "path",
    [
        "churn/none.html",
        "churn/..%2Fchurn%2Fsecret.html",
        "..%2Freports/secret.html",
        "churn/..",
        "%2e%2e/ledger.sqlite",
        "churn/secret.json",
        "churn/linked.html",
        "linked/secret.html",
        "churn/folder.html",
        "churn/a%00.html",
        "churn/" + "a" * 300 + ".html",
    ],
)
def test_nothing_but_reports_is_read(eventful: Live, path: str) -> None:
    reports = eventful.settings.reports
    outside = eventful.settings.home / "outside"
    outside.mkdir(exist_ok=True)
    for secret in (outside / "secret.html", reports / "churn" / "secret.json", reports / "secret.html"):
        secret.write_text("secret")
    (reports / "churn" / "folder.html").mkdir(exist_ok=True)
    for link, target in ((reports / "churn" / "linked.html", outside / "secret.html"), (reports / "linked", outside)):
        if not link.is_symlink():
            link.symlink_to(target)
    answer = eventful.http.get(f"/console/reports/{path}")
    assert answer.status_code in (400, 404)
    assert "secret" not in answer.text.replace("secret.", "")


def test_a_report_that_is_too_large_is_refused_by_its_size(eventful: Live) -> None:
    path = eventful.settings.reports / "churn" / "large.html"
    with path.open("wb") as file:
        file.truncate(LARGEST_REPORT + 1)
    answer = eventful.http.get("/console/reports/churn/large.html")
    assert (answer.status_code, f"has {LARGEST_REPORT + 1} bytes" in answer.json()["error"]) == (413, True)


def test_looking_changes_nothing(eventful: Live) -> None:
    def state() -> dict[str, bytes]:
        home = eventful.settings.home
        files = [eventful.settings.ledger, *(home / "rollouts").iterdir(), *(home / "models").rglob("*")]
        return {str(path): path.read_bytes() for path in files if path.is_file()}

    before = state()
    for path in DATA:
        eventful.http.get(path)
    assert state() == before
    assert eventful.http.post("/console/api/overview").status_code == 405


def test_the_page_needs_nothing_from_elsewhere_and_holds_no_inline_code(eventful: Live) -> None:
    page = eventful.http.get("/console")
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert page.headers["content-security-policy"].startswith(
        "default-src 'none'; script-src 'self'; style-src 'self'; "
    )
    assert page.headers["referrer-policy"] == "no-referrer"
    assert not re.search(r"<script>|<style|\son\w+=|style=|https?://", page.text)
    assert eventful.http.get("/console/").text == page.text
    for file in PAGE.iterdir():
        answer = eventful.http.get(f"/console/{file.name}")
        assert answer.text == file.read_text(), file.name
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)|innerHTML|\beval\(|@import|url\(", answer.text), file
        for imported in re.findall(r'from "([^"]+)"', answer.text):
            assert (PAGE / imported).exists(), imported
    for named in re.findall(r'(?:src|href)="(/[^"]+)"', page.text):
        assert eventful.http.get(named).status_code == 200, named
    for missing in ("none.js", "..%2Froutes.py", "__init__.py"):
        assert eventful.http.get(f"/console/{missing}").status_code == 404


def test_a_crowd_is_turned_away_before_it_waits(tmp_path: Path) -> None:
    console = Console(prepared_home(tmp_path / "home"), Access())
    (overview,) = (route.handler for route in console.routes() if route.path == DATA[0])

    async def crowd() -> list[Response | BaseException]:
        return await asyncio.gather(*(overview(Request((), b"")) for _ in range(40)), return_exceptions=True)

    answers = asyncio.run(crowd())
    console.close()
    refused = [answer for answer in answers if isinstance(answer, OverloadedError)]
    assert (len(refused), len(answers) - len(refused)) == (8, 32)
    assert all(answer.status == 200 for answer in answers if isinstance(answer, Response))


def test_another_site_cannot_ask(eventful: Live) -> None:
    assert eventful.http.get(DATA[0], headers={"sec-fetch-site": "cross-site"}).status_code == 403


def test_a_damaged_ledger_is_told(tmp_path: Path) -> None:
    settings = prepared_home(tmp_path / "home")
    settings.ledger.write_bytes(b"no database at all" * 100)
    with running(settings) as (door, address), connected(settings, door, address) as server:
        answer = server.http.get("/console/api/overview")
        assert (answer.status_code, "the ledger cannot be read" in answer.json()["error"]) == (503, True)
        assert server.http.post("/v1/recommend", json={"user_id": 15}).status_code == 200


def test_tokens_and_the_cookie_that_one_is_traded_for(tmp_path: Path) -> None:
    file = tmp_path / "tokens.toml"
    roles = {"looker": Role.CONSOLE, "root": Role.ADMIN, "asker": Role.INFER}
    tokens = {name: add_token(file, name, frozenset({role})) for name, role in roles.items()}
    settings = with_history(prepared_home(tmp_path / "home", security={"token_file": file}))

    def bearer(name: str) -> dict[str, str]:
        return {"authorization": f"Bearer {tokens[name]}"}

    with running(settings) as (door, address), connected(settings, door, address) as server:
        assert server.http.get("/console").status_code == 200
        for path in DATA:
            found = 404 if "none" in path else 200
            assert server.http.get(path).status_code == 401, path
            assert server.http.get(path, headers=bearer("asker")).status_code == 403, path
            assert server.http.get(path, headers=bearer("looker")).status_code == found, path
            assert server.http.get(path, headers=bearer("root")).status_code == found, path
        # A token to look is good for nothing else.
        answer = server.http.post("/v1/recommend", json={"user_id": 15}, headers=bearer("looker"))
        assert answer.status_code == 403

        assert server.http.post("/console/session").status_code == 401
        assert server.http.post("/console/session", headers=bearer("asker")).status_code == 403
        with httpx.Client(base_url=address.url) as browser:
            signed = browser.post("/console/session", headers=bearer("looker"))
            assert (signed.status_code, signed.content) == (204, b"")
            cookie, name = signed.headers["set-cookie"], f"driftwheel_console_{settings.serving.port}"
            assert cookie.endswith("; Path=/console; HttpOnly; SameSite=Strict")
            assert cookie.startswith(f"{name}=")
            assert browser.get(DATA[0]).json()["signed_in"] is True
            assert browser.post("/v1/recommend", json={"user_id": 15}).status_code == 401  # no cookie goes there
            assert browser.get(DATA[0], headers={"cookie": f"a=b; {name}=x"}).status_code == 401
            assert "Max-Age=0" in browser.delete("/console/session").headers["set-cookie"]
            assert browser.get(DATA[0]).status_code == 401


def test_open_to_a_network_it_wants_a_token(tmp_path: Path) -> None:
    settings = prepared_home(tmp_path / "home", serving={"port": 0, "host": "0.0.0.0"})  # noqa: S104 (what is tested)
    with running(settings) as (door, address), connected(settings, door, address) as server:
        for path in DATA:
            answer = server.http.get(path)
            assert (answer.status_code, "--role console" in answer.json()["error"]) == (403, True)
        assert server.http.post("/console/session").status_code == 403
