"""Workers over a database: a real MariaDB and a real PostgreSQL."""

from collections.abc import Generator
from pathlib import Path

import pytest

from driftwheel.settings import Settings, TuningSettings
from tests.training.tuning import servers
from tests.training.tuning.fakes import FakeRunner, work
from tests.training.tuning.test_storage import kill_one_of_three
from training.tuning.storage import open_storage, reachable

pytestmark = pytest.mark.system

KINDS = {"mariadb": servers.mariadb, "postgresql": servers.postgresql}


@pytest.fixture(scope="module", params=list(KINDS))
def database(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Generator[str]:
    """The URL of an empty database on a server of our own."""
    with KINDS[request.param](tmp_path_factory.mktemp(request.param)) as url:
        yield url


def test_three_workers_over_a_database_and_one_is_killed(database: str, tmp_path: Path):
    settings = Settings(home=tmp_path, tuning=TuningSettings(storage=database, heartbeat_s=1, grace_s=3))
    rows = kill_one_of_three(settings, database, trials=7)
    assert len({str(row.params) for row in rows if row.done}) == 7


def test_a_study_in_a_database_goes_on(database: str, tmp_path: Path):
    settings = Settings(home=tmp_path, tuning=TuningSettings(storage=database))
    opened = open_storage(settings, study="mf-second")
    assert servers.PASSWORD not in opened.described
    assert "tuner" not in opened.described
    work(settings, FakeRunner(), name="mf-second", trials=2)
    runner = FakeRunner()
    with reachable(opened):
        assert len(work(settings, runner, name="mf-second", opened=opened, trials=4)) == 4
    assert len(runner.configs) == 2
