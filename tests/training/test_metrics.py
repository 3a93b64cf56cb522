import numpy as np
import pytest
from sklearn import metrics as reference

from training.metrics import churn_metrics, ranking_metrics, rating_metrics


@pytest.fixture(params=["distinct", "tied"])
def scores(request: pytest.FixtureRequest) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(3)
    p = random.random(500)
    return (np.round(p, 1) if request.param == "tied" else p), (random.random(500) < p).astype(np.float32)


def test_churn_metrics_agree_with_scikit_learn(scores: tuple[np.ndarray, np.ndarray]):
    p, y = scores
    ours = churn_metrics(p, y)
    clipped = np.clip(p, 1e-7, 1 - 1e-7)
    assert ours["auc"] == pytest.approx(reference.roc_auc_score(y, p))
    assert ours["average_precision"] == pytest.approx(reference.average_precision_score(y, p))
    assert ours["log_loss"] == pytest.approx(reference.log_loss(y, clipped))
    assert ours["brier"] == pytest.approx(reference.brier_score_loss(y, p), rel=1e-5)
    assert ours["f1"] == pytest.approx(reference.f1_score(y, p >= 0.5))


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_one_class_has_no_auc(label: float):
    assert set(churn_metrics(np.array([0.2, 0.9]), np.full(2, label))) == {"log_loss", "brier", "f1"}


def test_rating_metrics():
    assert rating_metrics(np.array([3.0, 5.0]), np.array([4.0, 3.0])) == {"rmse": pytest.approx(2.5**0.5), "mae": 1.5}


def test_ranking_metrics():
    perfect = (np.array([1, 2, 3]), np.array([1, 2]))
    missed = (np.array([4, 5, 6]), np.array([7]))
    second = (np.array([4, 5, 6]), np.array([5]))
    assert ranking_metrics([perfect], k=3) == {"ndcg_at_3": 1.0, "recall_at_3": 1.0}
    assert ranking_metrics([perfect, missed], k=3) == {"ndcg_at_3": 0.5, "recall_at_3": 0.5}
    assert ranking_metrics([second], k=3)["ndcg_at_3"] == pytest.approx(1 / np.log2(3))
    assert ranking_metrics([], k=3) == {}
