import numpy as np
import pytest

from training.factorization.traits import category_features, number_features, placed


def test_categories_are_rows_of_length_one():
    features = category_features(["Drama|Comedy", "Drama", None, " ", "Comedy | Drama|Drama"])
    half = 0.5**0.5
    np.testing.assert_allclose(features, [[half, half], [0, 1], [0, 0], [0, 0], [half, half]], rtol=1e-6)


def test_near_numbers_are_alike_and_far_ones_are_not():
    features = number_features(np.array([1940.0, 1990.0, 1992.0, 2016.0]))
    near, far = features[1] @ features[2], features[1] @ features[0]
    assert near > 0.9 * features[1] @ features[1]
    assert far < 0.01 * near


def test_rows_that_nothing_is_known_of_are_as_the_others_on_average():
    table = placed(np.array([[1.0, 0.0], [3.0, 1.0]], dtype=np.float32), np.array([3, 1]), 4)
    np.testing.assert_array_equal(table, [[2, 0.5], [3, 1], [2, 0.5], [1, 0]])


@pytest.mark.parametrize("values", [[2.0, 2.0], []])
def test_numbers_that_do_not_differ_say_nothing(values: list[float]):
    assert number_features(np.array(values)).shape == (len(values), 0)
