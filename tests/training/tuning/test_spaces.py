import dataclasses

import pytest

from driftwheel.errors import ConfigurationError
from training.config import ESTIMATORS, BoostingConfig, ChurnConfig, RatingConfig, estimator_config
from training.tuning.spaces import PRUNED, SPACES, Choice, configured, default_params, space_digest, space_of

SEARCHED = [(task, name) for task, estimators in ESTIMATORS.items() for name in estimators if name in SPACES]
every = pytest.mark.parametrize(("task", "estimator"), SEARCHED)


def test_spaces_are_of_estimators():
    assert {name for _, name in SEARCHED} == set(SPACES) >= PRUNED


@every
def test_every_searched_knob_is_one_of_the_configuration(task, estimator):
    fields = {field.name for field in dataclasses.fields(estimator_config(task, estimator))}
    assert set(space_of(task, estimator)) <= fields


@every
def test_the_defaults_are_a_point_of_the_space(task, estimator):
    params = default_params(task, estimator)
    assert configured(task, params, estimator) == estimator_config(task, estimator)
    for name, knob in space_of(task, estimator).items():
        assert params[name] in knob.labels if isinstance(knob, Choice) else knob.low <= params[name] <= knob.high


def test_a_point_is_laid_over_the_defaults():
    config = configured("churn", {"hidden": "[64,32]", "batch_rows": "128", "dropout": 0.1, "gone": 3})
    assert config == ChurnConfig(hidden=(64, 32), batch_rows=128, dropout=0.1)
    assert configured("rating", {"factors": 9}, "sgd") == RatingConfig(factors=9)
    assert configured("churn", {"bins": "0", "heads": "4"}) == ChurnConfig(bins=0, heads=4)


def test_a_point_is_laid_over_what_a_champion_has():
    base = BoostingConfig(epochs=50, leaves=4, missed_cost=2.0)
    assert configured("churn", {"leaves": 7}, "boosting", base=base) == dataclasses.replace(base, leaves=7)


def test_studies_of_different_things_have_different_names():
    digests = [space_digest("rating", 1), space_digest("rating", 2)]
    digests += [space_digest("churn", 1, estimator) for estimator in ("network", "forest", "boosting")]
    assert len(set(digests)) == len(digests)
    assert space_digest("churn", 1) == space_digest("churn", 1, "network")


def test_an_estimator_of_the_other_task_is_refused():
    with pytest.raises(ConfigurationError, match="learns from ratings .*, got 'forest'"):
        space_of("rating", "forest")
