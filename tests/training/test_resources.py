"""How many ranks a machine can hold."""

from pathlib import Path

import pytest

from driftwheel.errors import ConfigurationError
from tests.training.samples import run_job
from training.data.dataset import Dataset
from training.resources import check_ranks, machine_memory_mb


def test_as_many_ranks_as_fit_and_no_more():
    check_ranks(8, 2_000)
    with pytest.raises(ConfigurationError, match=r"training\.ranks \(--ranks\): expected at most 8, got 9: .* 2 GB"):
        check_ranks(9, 2_000)


def test_one_rank_always_may_try():
    check_ranks(1, 100)


def test_this_machine_holds_the_tests():
    assert machine_memory_mb() > 500


def test_a_job_of_too_many_ranks_begins_nothing(small_ratings: Dataset, tmp_path: Path):
    with pytest.raises(ConfigurationError, match="got 1000000"):
        run_job(small_ratings, tmp_path / "jobs", ranks=1_000_000)
    assert not list((tmp_path / "jobs").rglob("job.json"))
