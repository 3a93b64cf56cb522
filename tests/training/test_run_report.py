"""The page of a run: whole, by itself, on a wide screen and a narrow one."""

import re
import shutil
import subprocess
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.training.samples import run_both
from training.answers import measure
from training.data.dataset import Dataset
from training.data.refit import refit_dataset
from training.importance import permutation_importance
from training.job import TrainedModel
from training.plots import training_pictures
from training.run_report import RunFacts, write_run_report


@pytest.fixture(scope="module", params=["rating", "churn"])
def facts(request: pytest.FixtureRequest, shared_home: Path) -> RunFacts:
    if request.param == "rating":
        dataset: Dataset = request.getfixturevalue("ratings")
        full = refit_dataset(dataset)
        made = run_both(dataset, full, shared_home / "jobs")
        evaluated, measured, shipped = made.evaluated, made.measured, made.shipped
    else:
        dataset = full = request.getfixturevalue("customers")
        evaluated = measured = shipped = request.getfixturevalue("trained_customers")
    answers = measure(measured, dataset)
    importance = []
    if dataset.task == "churn":
        importance = permutation_importance(answers.model, dataset.signature, answers.split, seed=1, repeats=2)
    pictures = training_pictures(evaluated, shipped.metrics, answers.predicted, answers.split.label, importance)
    return RunFacts(
        evaluated=evaluated, shipped=shipped, dataset=dataset, full=full, pictures=pictures, importance=importance
    )


@pytest.fixture(scope="module")
def page(facts: RunFacts) -> str:
    return write_run_report(facts).decode()


class Tags(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: Counter[str] = Counter()
        self.links: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen[tag] += 1
        self.links += [value for name, value in attrs if name in ("src", "href", "xlink:href") and value]
        if tag not in ("meta", "br", "link"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if self.open[-1] == tag:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_it_says_what_the_run_was_and_reached(page: str, facts: RunFacts) -> None:
    shipped: TrainedModel = facts.shipped
    for said in (
        shipped.key,
        facts.dataset.fingerprint,
        facts.full.fingerprint,
        facts.dataset.source,
        *shipped.metrics,
    ):
        assert said in page
    for name, value in shipped.metrics.items():
        assert f"<td>{value:.6g}</td>" in page, name
    for name in shipped.config:
        assert f'<th scope="row">{name}</th>' in page
    for one in facts.importance:
        assert f"<td>{one.feature}</td>" in page
    assert ("Importance by permutation</h2>" in page) == (facts.dataset.task == "churn")
    assert "its peak memory, MB" in page


def test_it_is_whole_and_fetches_nothing(page: str, facts: RunFacts) -> None:
    tags = Tags(page)
    assert tags.open == []
    assert tags.seen["figure"] == tags.seen["svg"] == sum(len(panels) for panels in facts.pictures.values())
    assert [link for link in tags.links if not link.startswith(("#", "data:"))] == []
    assert tags.seen["script"] == tags.seen["link"] == 0
    assert re.findall(r"url\((?!['\"]?#)", page) == []


def test_what_would_be_black_has_the_colour_of_the_readers_scheme(page: str) -> None:
    assert "prefers-color-scheme: dark" in page
    assert "#000000" not in page
    assert page.count("currentColor") > 20


def test_the_same_run_makes_the_same_page(page: str, facts: RunFacts) -> None:
    assert write_run_report(facts).decode() == page


def test_words_of_the_data_are_text_and_nothing_else(facts: RunFacts) -> None:
    hostile = "<script>alert(1)</script>&"
    dropped = {hostile: 3}
    page = write_run_report(replace(facts, dataset=replace(facts.dataset, source=hostile, dropped=dropped))).decode()
    assert Tags(page).seen["script"] == 0
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;&amp;") == 3


@pytest.mark.system
@pytest.mark.parametrize("width", [1280, 400])
def test_it_fits_the_screen(page: str, width: int, tmp_path: Path) -> None:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("needs Debian's chromium")
    measured = "<script>document.title = `${innerWidth} ${document.documentElement.scrollWidth}`</script></body>"
    (tmp_path / "page.html").write_text(page.replace("</body>", measured))
    command = [chromium, "--headless", "--no-sandbox", f"--user-data-dir={tmp_path / 'profile'}"]
    # The window of a headless Chromium is no narrower than 500 pixels; a frame may be.
    frame = f'<iframe id="f" src="page.html" style="width:{width}px;height:800px;border:0"></iframe>'
    script = "<script>f.onload = () => document.title = f.contentDocument.title</script>"
    (tmp_path / "frame.html").write_text(f"<!doctype html>{frame}{script}")
    command += ["--allow-file-access-from-files", "--window-size=1400,900", "--virtual-time-budget=5000", "--dump-dom"]
    done = subprocess.run(
        [*command, (tmp_path / "frame.html").as_uri()], capture_output=True, text=True, timeout=60, check=True
    )
    title = re.search(r"<title>(\d+) (\d+)</title>", done.stdout)
    assert title is not None, done.stdout[:500]
    inner, wide = int(title[1]), int(title[2])
    assert inner == width
    assert wide <= width
