import dataclasses

import pytest

from training.config import ChurnConfig, RatingConfig, default_config
from training.tuning.spaces import Choice, configured, default_params, space_digest, space_of

TASKS = ["rating", "churn"]


@pytest.mark.parametrize("task", TASKS)
def test_every_searched_knob_is_one_of_the_configuration(task):
    fields = {field.name for field in dataclasses.fields(default_config(task))}
    assert set(space_of(task)) <= fields


@pytest.mark.parametrize("task", TASKS)
def test_the_defaults_are_a_point_of_the_space(task):
    assert configured(task, default_params(task)) == default_config(task)
    for name, knob in space_of(task).items():
        value = default_params(task)[name]
        assert value in knob.labels if isinstance(knob, Choice) else knob.low <= value <= knob.high


def test_a_point_is_laid_over_the_defaults():
    config = configured("churn", {"hidden": "[64,32]", "batch_rows": "128", "dropout": 0.1, "gone": 3})
    assert config == ChurnConfig(hidden=(64, 32), batch_rows=128, dropout=0.1)
    assert configured("rating", {"factors": 9}) == RatingConfig(factors=9)


def test_studies_of_different_things_have_different_names():
    assert len({space_digest("rating", 1), space_digest("rating", 2), space_digest("churn", 1)}) == 3
