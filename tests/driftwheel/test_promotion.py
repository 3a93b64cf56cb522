"""Moving versions by name, where all there is are bundles, rollouts and the ledger: a serving machine without MLflow's record."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftwheel.errors import BundleError, NotFoundError, RolloutError
from driftwheel.rollout import read_rollout
from driftwheel.settings import Settings
from driftwheel.wheel.archive import archived_versions, whoami
from driftwheel.wheel.comparing import find_version
from driftwheel.wheel.inventory import describe, inventory
from driftwheel.wheel.progress import SILENT
from driftwheel.wheel.promotion import ROLLBACK, champions_before, promote, roll_back, set_archived
from driftwheel.wheel.releases import change, put_in_service, start_trial
from monitoring.ledger import Entry, Ledger
from tests.bundles import make_churn_bundle, make_rating_bundle

NOW = "2026-01-01T00:00:00Z"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Four versions, of which the first serves and the gate has let the second and refused the third."""
    settings = Settings(home=tmp_path)
    for version in (1, 2, 3, 4):
        make_rating_bundle(settings.models, version)
    put_in_service(settings, "mf", 1)
    for version, passed in ((2, True), (3, False)):
        verdict = {"passed": passed, "reasons": ["rmse 0.9 is what it is"]}
        Ledger(settings.ledger).append(
            "gate", "mf", at=NOW, summary="gate", payload={"version": version, "verdict": verdict}
        )
    return settings


def promoted(settings: Settings, version: int, **changes: object) -> int:
    arguments = {"role": "champion", "reason": "for a test", "reporter": SILENT} | changes
    return promote(settings, "mf", version, **arguments).stable  # pyright: ignore[reportArgumentType]


def test_what_passed_the_gate_is_promoted_and_the_ledger_says_who_and_why(settings: Settings) -> None:
    assert promoted(settings, 2) == 2
    assert read_rollout(settings.rollouts, "mf").stable == 2
    entry = Ledger(settings.ledger).latest("mf", "rollout")[0]
    assert entry.summary == f"version 2 in service (by models promote, {whoami()}): for a test"
    assert (entry.payload["who"], entry.payload["reason"]) == (whoami(), "for a test")


@pytest.mark.parametrize(("version", "says"), [(3, "the gate refuses version 3"), (4, "no gate has judged version 4")])
def test_what_did_not_pass_is_refused_unless_it_is_forced(settings: Settings, version: int, says: str) -> None:
    with pytest.raises(RolloutError, match=says) as caught:
        promoted(settings, version)
    assert "--force" in (caught.value.hint or "")
    assert read_rollout(settings.rollouts, "mf").stable == 1
    assert promoted(settings, version, force=True) == version
    assert "the gate was not asked" in Ledger(settings.ledger).latest("mf", "rollout")[0].summary


def test_a_challenger_goes_on_trial(settings: Settings) -> None:
    promote(settings, "mf", 2, role="challenger", reason="", reporter=SILENT, steps=(0.1, 1.0))
    rollout = read_rollout(settings.rollouts, "mf")
    assert (rollout.stable, rollout.candidate, rollout.weight) == (1, 2, 0.1)
    assert find_version(settings, "mf", "challenger") == 2
    assert promoted(settings, find_version(settings, "mf", "challenger")) == 2
    assert read_rollout(settings.rollouts, "mf").candidate is None


def test_a_version_that_cannot_serve_is_refused_even_if_it_is_forced(settings: Settings) -> None:
    with pytest.raises(NotFoundError, match="version 9 of mf has no bundle"):
        promoted(settings, 9, force=True)
    (settings.models / "mf" / "2" / "model.onnx").write_bytes(b"damaged")
    with pytest.raises(BundleError, match="model.onnx is damaged"):
        promoted(settings, 2, force=True)


def test_another_signature_takes_force_and_never_goes_on_trial(settings: Settings) -> None:
    make_churn_bundle(settings.models, 5, name="mf")
    with pytest.raises(RolloutError, match="its inputs differ"):
        promoted(settings, 5)
    with pytest.raises(RolloutError, match="its inputs differ"):
        promoted(settings, 5, role="challenger", force=True)
    assert promoted(settings, 5, force=True) == 5


def test_rolling_back_twice_goes_back_twice(settings: Settings) -> None:
    for version in (2, 3, 4):
        promoted(settings, version, force=True)
    assert [roll_back(settings, "mf", reason="worse").stable for _ in range(3)] == [3, 2, 1]
    with pytest.raises(RolloutError, match="had no champion before version 1"):
        roll_back(settings, "mf", reason="")
    promoted(settings, 4, force=True)
    assert roll_back(settings, "mf", reason="").stable == 1


def test_a_rollback_ends_a_trial_and_passes_over_what_is_archived(settings: Settings) -> None:
    for version in (2, 3):
        promoted(settings, version, force=True)
    start_trial(settings, "mf", 4, steps=(0.5, 1.0), by="test")
    set_archived(settings, "mf", 2, archived=True, reason="leaks the label")
    rollout = roll_back(settings, "mf", reason="the third is slow")
    assert (rollout.stable, rollout.candidate) == (1, None)


def test_a_rollback_counts_what_the_judge_promoted(settings: Settings) -> None:
    start_trial(settings, "mf", 2, steps=(0.5, 1.0), by="test")
    change(settings, "mf", "promote")
    assert roll_back(settings, "mf", reason="").stable == 1


def test_what_is_archived_is_released_by_nobody(settings: Settings) -> None:
    set_archived(settings, "mf", 2, archived=True, reason="leaks the label")
    for release in (
        lambda: promoted(settings, 2, force=True),
        lambda: promoted(settings, 2, role="challenger"),
        lambda: put_in_service(settings, "mf", 2),
        lambda: start_trial(settings, "mf", 2, steps=(0.5, 1.0), by="test"),
    ):
        with pytest.raises(RolloutError, match=f"archived by {whoami()} on .*: leaks the label"):
            release()
    assert read_rollout(settings.rollouts, "mf").revision == 1
    assert {row["version"]: row["state"] for row in inventory(settings, "mf")}[2] == "archived"
    assert describe(settings, "mf", 2)["state"] == f"archived by {whoami()}: leaks the label"
    set_archived(settings, "mf", 2, archived=False, reason="it does not")
    assert promoted(settings, 2) == 2
    summaries = [entry.summary for entry in Ledger(settings.ledger).entries("mf", "archive")]
    assert summaries == [
        f"version 2 archived by {whoami()}: leaks the label",
        f"version 2 restored by {whoami()}: it does not",
    ]


def test_archiving_twice_is_written_down_once(settings: Settings) -> None:
    for _ in range(2):
        set_archived(settings, "mf", 2, archived=True, reason="")
    assert len(Ledger(settings.ledger).entries("mf", "archive")) == 1
    assert archived_versions(settings, "other") == {}


def test_what_serves_or_is_on_trial_cannot_be_archived(settings: Settings) -> None:
    start_trial(settings, "mf", 2, steps=(0.5, 1.0), by="test")
    for version, state in ((1, "in service"), (2, "on trial")):
        with pytest.raises(RolloutError, match=f"version {version} of 'mf' is {state}"):
            set_archived(settings, "mf", version, archived=True, reason="")
    with pytest.raises(NotFoundError, match="mf has no version 9"):
        set_archived(settings, "mf", 9, archived=True, reason="")


def test_versions_have_names(settings: Settings) -> None:
    assert find_version(settings, "mf", "champion") == 1
    assert find_version(settings, "mf", "3") == 3
    for name in ("challenger", "best"):
        with pytest.raises(NotFoundError, match=f"mf has no '{name}': expected a version's number, champion"):
            find_version(settings, "mf", name)


def test_a_version_is_described_from_its_bundle_alone(settings: Settings) -> None:
    facts = describe(settings, "mf", 1)
    assert facts["state"] == "in service"
    assert facts["lineage"].keys() >= {"run_id", "data_fingerprint", "code_revision"}
    assert facts["inputs"]["user_id"] == "INT64, id"
    with pytest.raises(NotFoundError, match="mf has no version 9"):
        describe(settings, "mf", 9)


@given(st.lists(st.one_of(st.integers(1, 5), st.just("back")), max_size=20))
def test_going_back_is_a_stack(moves: list[int | str]) -> None:
    """Whatever is promoted and rolled back in whatever order: the history is that of undoing."""
    undo: list[int] = [9]
    entries = [entry(9, "canary promote")]
    for move in moves:
        if move == "back":
            if len(undo) < 2:
                continue
            undo.pop()
            entries.append(entry(undo[-1], ROLLBACK))
        elif move != undo[-1]:
            undo.append(int(move))
            entries.append(entry(int(move), "models promote"))
    assert champions_before(entries, undo[-1]) == undo[:-1]


def entry(stable: int, by: str) -> Entry:
    return Entry(id=1, at=NOW, kind="rollout", model="m", summary="", payload={"stable": stable, "updated_by": by})
