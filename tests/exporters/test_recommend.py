from pathlib import Path

import numpy as np
import pytest
import torch

from driftwheel.errors import ExportError
from exporters.parity import prove_recommend
from exporters.recommend import recommend_in_numpy, write_recommend_graph
from training.models.matrix_factorization import MatrixFactorization, MatrixFactorizationShape

USERS, ITEMS = 6, 40


@pytest.fixture
def model() -> MatrixFactorization:
    torch.manual_seed(1)
    made = MatrixFactorization(MatrixFactorizationShape(users=USERS, items=ITEMS, factors=4, low=0.5, high=5.0))
    with torch.no_grad():
        for table in (made.user_vector, made.item_vector, made.user_bias, made.item_bias):
            table.weight[1:].normal_()
    return made.eval()


@pytest.fixture
def ask(model: MatrixFactorization, tmp_path: Path):
    import onnxruntime as ort

    write_recommend_graph(tmp_path / "recommend.onnx", model)
    session = ort.InferenceSession(str(tmp_path / "recommend.onnx"), providers=["CPUExecutionProvider"])

    def run(users: list[int], exclude: list[list[int]], k: int) -> tuple[np.ndarray, np.ndarray]:
        feed = {
            "user_index": np.array(users, dtype=np.int64),
            "exclude_index": np.array(exclude, dtype=np.int64).reshape(len(users), -1),
            "k": np.array([k], dtype=np.int64),
        }
        return tuple(session.run(["item_index", "score"], feed))

    return run


def test_it_is_the_model_sorted(ask, model: MatrixFactorization):
    index, score = ask([3, 0], [[], []], 10)
    for row, user in enumerate([3, 0]):
        raw = model.raw_scores(torch.tensor(user), torch.arange(ITEMS)).detach().numpy()
        raw[0] = -np.inf
        np.testing.assert_array_equal(index[row], np.argsort(-raw)[:10])
        with torch.no_grad():
            np.testing.assert_allclose(
                score[row], model(torch.full((10,), user), torch.from_numpy(index[row])), atol=1e-5
            )


def test_items_beyond_the_range_keep_their_order(ask, model: MatrixFactorization):
    """Clipped scores tie at the top; the ranking is of what lies behind them."""
    with torch.no_grad():
        model.mean.fill_(4.9)
    index, score = ask([1], [[]], 20)
    raw = model.raw_scores(torch.tensor(1), torch.from_numpy(index[0])).detach().numpy()
    assert (np.diff(raw) <= 0).all()
    assert score.max() <= 5.0


@pytest.mark.parametrize("k", [1, 5, ITEMS])
def test_excluded_items_never_come(ask, k: int):
    index, score = ask([2, 4], [[1, 2, 3], [7, 0, 0]], k)
    assert not np.isin(index[0], [1, 2, 3]).any()
    assert 7 not in index[1]
    np.testing.assert_array_equal(index == 0, np.isnan(score))


def test_what_runs_out_is_index_0_and_nan(ask):
    index, score = ask([1], [list(range(1, ITEMS - 2))], 5)
    assert sorted(index[0][:2]) == [ITEMS - 2, ITEMS - 1]
    assert (index[0][2:] == 0).all()
    assert np.isnan(score[0][2:]).all()
    assert not np.isnan(score[0][:2]).any()


def test_k_beyond_the_catalogue_gives_the_catalogue(ask):
    index, _ = ask([1], [[]], 10 * ITEMS)
    assert index.shape == (1, ITEMS)
    assert sorted(index[0]) == list(range(ITEMS))


def test_the_proof_refuses_another_model(model: MatrixFactorization, tmp_path: Path):
    users, seen = np.array([0, 1], dtype=np.int64), [np.array([], dtype=np.int64), np.array([3], dtype=np.int64)]
    path = tmp_path / "recommend.onnx"
    write_recommend_graph(path, model)
    cases = prove_recommend(model, path, users, seen)
    assert {case.format for case in cases} == {"recommend-onnx"}
    with torch.no_grad():
        model.mean += 0.002
    with pytest.raises(ExportError, match=r"recommend-onnx differs from the model by 0\.00"):
        prove_recommend(model, path, users, seen)


def test_numpy_gives_scores_best_first(model: MatrixFactorization):
    scores = recommend_in_numpy(model, np.array([1]), np.zeros((1, 0), dtype=np.int64), 7)
    assert (np.diff(scores[0]) <= 0).all()
