"""What a churn model looks at."""

import dataclasses

import numpy as np
import pytest

from driftwheel.contracts import InputSpec
from training.data.dataset import Dataset, EncodedSplit, encoded_split
from training.importance import permutation_importance
from training.inference import predict
from training.job import TrainedModel
from training.models.store import load_any


def test_what_decides_matters_most_and_the_same_seed_says_the_same(customers: Dataset, trained_customers: TrainedModel):
    model, split = load_any(trained_customers.folder), encoded_split(customers, "test")
    found = permutation_importance(model, customers.signature, split, seed=1)
    assert found == permutation_importance(model, customers.signature, split, seed=1)
    assert found != permutation_importance(model, customers.signature, split, seed=2)
    assert {one.feature for one in found} == {spec.name for spec in customers.signature.inputs}
    rises = [one.log_loss for one in found]
    assert rises == sorted(rises, reverse=True)
    assert {"contract", "tenure", "monthly_charges"} & {one.feature for one in found[:3]}
    assert found[0].auc > 0.01 > abs(found[-1].auc)


def test_an_input_that_is_the_same_for_everyone_matters_nothing(customers: Dataset, trained_customers: TrainedModel):
    model, split = load_any(trained_customers.folder), encoded_split(customers, "test")
    feed = {name: column.copy() for name, column in split.feed.items()}
    contract = next(spec for spec in customers.signature.inputs if spec.name == "contract")
    feed[contract.graph_input][:, contract.column] = 1
    found = permutation_importance(model, customers.signature, EncodedSplit(feed, split.label), seed=1)
    flat = next(one for one in found if one.feature == "contract")
    assert (flat.log_loss, flat.auc, flat.log_loss_deviation) == (0.0, 0.0, 0.0)


def test_the_rows_themselves_stay_as_they_were(customers: Dataset, trained_customers: TrainedModel):
    model, split = load_any(trained_customers.folder), encoded_split(customers, "valid")
    before = {name: column.copy() for name, column in split.feed.items()}
    answers = predict(model, split.feed)
    permutation_importance(model, customers.signature, split, seed=1, repeats=1)
    for name, column in split.feed.items():
        np.testing.assert_array_equal(column, before[name])
    np.testing.assert_array_equal(predict(model, split.feed), answers)


def test_an_input_that_the_data_does_not_have_is_an_error(customers: Dataset, trained_customers: TrainedModel):
    model, split = load_any(trained_customers.folder), encoded_split(customers, "valid")
    odd = InputSpec(name="odd", datatype="FP32", role="number", graph_input="none", column=0)
    with pytest.raises(KeyError, match="none"):
        permutation_importance(model, dataclasses.replace(customers.signature, inputs=(odd,)), split, seed=1)
