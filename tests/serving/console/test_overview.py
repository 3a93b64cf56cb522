"""Models, versions and rollouts as the console tells them, damaged ones too."""

from pathlib import Path

import pytest

from driftwheel.bundle import MANIFEST, bundle_folder
from driftwheel.rollout import rollout_path, serve_stable
from driftwheel.settings import Settings
from monitoring.canary.looks import Looks, keep_looks
from monitoring.ledger import Ledger
from serving.console import overview
from serving.console.overview import Home, ModelView
from tests.bundles import make_rating_bundle
from tests.serving.conftest import BY, prepared_home
from tests.serving.console.conftest import with_history


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return prepared_home(tmp_path / "home")


def model(settings: Settings, name: str = "mf") -> ModelView:
    return next(one for one in Home(settings).overview(signed_in=False).models if one.name == name)


def test_a_rollout_and_what_its_versions_are(settings: Settings) -> None:
    shown = model(with_history(settings))
    assert shown.rollout is not None
    assert (shown.rollout.stable, shown.rollout.candidate, shown.rollout.weight, shown.rollout.step) == (1, 2, 0.25, 1)
    assert [(one.version, one.state) for one in shown.versions] == [(2, "on trial"), (1, "in service")]
    assert (shown.versions[0].task, shown.versions[0].rows, shown.versions[0].run_id) == ("rating", 9, "run")
    assert (shown.drift, shown.looked_at) == ("stable", "")
    keep_looks(settings.looks, "mf", Looks(started_at=shown.rollout.started_at, at="later"))
    assert model(settings).looked_at == "later"
    assert shown.retrain is not None
    assert shown.retrain.result == "on trial"


def test_a_home_in_which_nothing_has_happened(settings: Settings) -> None:
    shown = model(settings, "churn")
    assert (shown.drift, shown.retrain, shown.versions[0].state) == ("", None, "in service")
    assert not settings.ledger.exists()


def test_an_exported_model_that_nothing_serves(settings: Settings) -> None:
    rollout_path(settings.rollouts, "mf").unlink()
    shown = model(settings)
    assert (shown.rollout, shown.fault, [one.state for one in shown.versions]) == (None, "", ["", ""])


def test_damage_is_told_and_the_rest_is_shown(settings: Settings) -> None:
    home = Home(settings)
    assert home.overview(signed_in=False).models[1].versions[0].fault == ""
    (bundle_folder(settings.models, "mf", 2) / MANIFEST).write_text("{")
    rollout_path(settings.rollouts, "churn").write_text("{")
    churn, mf = home.overview(signed_in=False).models
    assert "cannot be used" in churn.fault
    assert "is damaged" in mf.versions[0].fault
    assert (mf.fault, mf.versions[1].fault, mf.versions[1].task) == ("", "", "rating")


def test_archived_until_restored(settings: Settings) -> None:
    ledger = Ledger(settings.ledger)
    for archived, state in ((True, "archived"), (False, ""), (True, "archived")):
        ledger.append("archive", "mf", at="2026-01-01", summary="", payload={"version": 2, "archived": archived})
        assert model(settings).versions[0].state == state


def test_of_many_versions_the_newest_and_those_that_serve(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overview, "MOST_VERSIONS", 2)
    for version in (3, 4, 5):
        make_rating_bundle(settings.models, version)
    serve_stable(settings.rollouts, "mf", 1, **BY)
    shown = model(settings)
    assert ([one.version for one in shown.versions], shown.more_versions) == ([5, 4, 1], 2)
