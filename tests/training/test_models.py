from pathlib import Path

import pytest
import torch

from driftwheel.errors import TrainingError
from training.models.churn_network import ChurnNetwork, ChurnNetworkShape
from training.models.matrix_factorization import MatrixFactorization, MatrixFactorizationShape
from training.models.store import load_model, save_model

SHAPE = MatrixFactorizationShape(users=5, items=7, factors=3, low=0.5, high=5.0)


@pytest.fixture
def factorization() -> MatrixFactorization:
    torch.manual_seed(0)
    model = MatrixFactorization(SHAPE)
    with torch.no_grad():
        model.user_bias.weight[1:].normal_()
        model.item_bias.weight[1:].normal_()
    return model.eval()


@pytest.fixture
def network() -> ChurnNetwork:
    torch.manual_seed(0)
    shape = ChurnNetworkShape(categories=(3, 4), numbers=2, embedding=2, hidden=(8,), dropout=0.5, bins=3, heads=2)
    network = ChurnNetwork(shape)
    network.number_edges.copy_(torch.tensor([[-1.0, 0.0, 2.0, 3.0], [0.0, 1.0, 1.0, 1.0]]))
    return network.eval()


def test_the_unknown_falls_back_to_the_other_bias(factorization: MatrixFactorization):
    mean = factorization.mean.item()
    unknown_user = factorization.raw_scores(torch.tensor([0]), torch.tensor([3]))
    unknown_item = factorization.raw_scores(torch.tensor([2]), torch.tensor([0]))
    assert unknown_user.item() == pytest.approx(mean + factorization.item_bias.weight[3].item())
    assert unknown_item.item() == pytest.approx(mean + factorization.user_bias.weight[2].item())
    assert factorization(torch.tensor([0]), torch.tensor([0])).item() == pytest.approx(mean)


def test_the_unknown_learns_nothing(factorization: MatrixFactorization):
    factorization.raw_scores(torch.tensor([0, 1]), torch.tensor([0, 1])).sum().backward()
    for table in (
        factorization.user_vector,
        factorization.item_vector,
        factorization.user_bias,
        factorization.item_bias,
    ):
        assert table.weight.grad is not None
        assert not table.weight.grad[0].any()
        assert table.weight.grad[1].any()


def test_scores_stay_in_range(factorization: MatrixFactorization):
    with torch.no_grad():
        factorization.item_bias.weight[1:] *= 100
    scores = factorization(torch.ones(6, dtype=torch.int64), torch.arange(1, 7))
    assert scores.min() >= SHAPE.low
    assert scores.max() <= SHAPE.high


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 3e38])
def test_strange_numbers_give_probabilities(network: ChurnNetwork, value: float):
    probability = network(torch.zeros((1, 2), dtype=torch.int64), torch.tensor([[value, 1.0]]))
    assert torch.isfinite(probability).all()


def test_a_missing_number_is_not_the_mean(network: ChurnNetwork):
    category = torch.ones((2, 2), dtype=torch.int64)
    missing, mean = network(category, torch.tensor([[float("nan"), 1.0], [0.0, 1.0]]))
    assert missing != mean


def test_a_number_is_encoded_by_how_far_it_has_come(network: ChurnNetwork):
    numbers = torch.tensor([[1.0, 0.25], [-5.0, 1.0], [float("inf"), 2.0]])
    pieces = network._pieces(numbers).view(3, 2, 3)
    assert pieces[:, 0].tolist() == [[1.0, 0.5, 0.0], [0.0, 0.0, 0.0], [1.0, 1.0, 1.0]]
    assert pieces[:, 1].tolist() == [[0.25, 0.0, 0.0], [1.0, 0.0, 0.0], [1.0, 0.0, 0.0]], "bins without width stay at 0"


def test_calibration_is_part_of_the_answer(network: ChurnNetwork):
    arguments = torch.ones((3, 2), dtype=torch.int64), torch.randn(3, 2)
    before = network(*arguments)
    assert torch.equal(before, torch.sigmoid(network.logits(*arguments)))
    network.calibration_scale.fill_(2.0)
    network.calibration_bias.fill_(-0.5)
    torch.testing.assert_close(network(*arguments).logit(), 2 * before.logit() - 0.5)


def test_heads_are_averaged(network: ChurnNetwork):
    arguments = torch.ones((3, 2), dtype=torch.int64), torch.randn(3, 2)
    heads = network.head_logits(*arguments)
    assert heads.shape == (2, 3)
    assert not torch.equal(heads[0], heads[1])
    torch.testing.assert_close(network.logits(*arguments), heads.mean(0))


@pytest.mark.parametrize("kind", ["factorization", "network"])
def test_models_survive_the_disk(kind: str, request: pytest.FixtureRequest, tmp_path: Path):
    model = request.getfixturevalue(kind)
    save_model(tmp_path, model)
    loaded = load_model(tmp_path)
    assert not loaded.training
    assert loaded.shape == model.shape
    for name, value in model.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[name])


@pytest.mark.parametrize("file", ["model.json", "model.safetensors"])
def test_damaged_models_are_refused(factorization: MatrixFactorization, tmp_path: Path, file: str):
    save_model(tmp_path, factorization)
    (tmp_path / file).write_bytes((tmp_path / file).read_bytes()[:-5])
    with pytest.raises(TrainingError, match="missing or damaged"):
        load_model(tmp_path)


def test_no_hidden_layer_is_a_logistic_regression():
    shape = ChurnNetworkShape(categories=(), numbers=3, embedding=2, hidden=(), dropout=0.0)
    assert ChurnNetwork(shape)(torch.zeros((4, 0), dtype=torch.int64), torch.zeros((4, 3))).shape == (4,)
