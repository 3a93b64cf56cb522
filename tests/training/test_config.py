"""Parameters that a user gives."""

import pytest

from driftwheel.commands.common import parsed_parameters
from driftwheel.errors import ConfigurationError
from training.config import BayesConfig, ChurnConfig, with_parameters


def test_given_parameters_replace_those_of_a_configuration_alone():
    given = parsed_parameters(["epochs=7", "hidden=[32, 16]", "missed_cost=2.5"])
    assert given is not None
    assert with_parameters(ChurnConfig(dropout=0.1), given) == ChurnConfig(
        epochs=7, hidden=(32, 16), missed_cost=2.5, dropout=0.1
    )
    assert parsed_parameters(None) is None


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("epoch=7", r"--set epoch: expected a parameter \(batch_rows, bins, .*epochs, "),
        ("epochs=many", "--set epochs: Expected `int`, got `str`"),
        ("epochs=1.5", "--set epochs: Expected `int`, got `float`"),
        ("epochs=0", "--set epochs: expected a number of 1 or more, got 0"),
        ("learning_rate=-1", "--set learning_rate: expected a number of 0 or more, got -1"),
        ("learning_rate=NaN", "--set learning_rate: expected a number of 0 or more, got nan"),
        ("hidden=[16, 0]", "--set hidden: expected a number of 1 or more, got 0"),
        ("dropout=1.5", "--set dropout: expected a number of 1 or less, got 1.5"),
        ("estimator=forest", "--set estimator: expected a parameter"),
        ("epochs", "--set must be NAME=VALUE, got 'epochs'"),
    ],
)
def test_what_is_no_parameter_is_refused_by_name(given: str, said: str):
    with pytest.raises(ConfigurationError, match=said):
        with_parameters(ChurnConfig(), parsed_parameters([given]) or {})


def test_mistakes_must_cost_something():
    with pytest.raises(ConfigurationError, match="at least one of them must be above 0"):
        with_parameters(ChurnConfig(), {"missed_cost": 0, "needless_cost": 0})


def test_draws_are_left_after_the_burn_in():
    with pytest.raises(ConfigurationError, match="--set epochs, burn_in: expected more epochs .*, got 20 and 20"):
        with_parameters(BayesConfig(), {"epochs": 20})
    assert with_parameters(BayesConfig(), {"epochs": 20, "burn_in": 5}) == BayesConfig(epochs=20, burn_in=5)


def test_a_switch_is_no_number():
    assert with_parameters(BayesConfig(), {"item_features": False}) == BayesConfig(item_features=False)
