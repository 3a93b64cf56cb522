"""implicit: alternating least squares for rankings (https://benfred.github.io/implicit)."""
# pyright: reportMissingImports=false

import time
from typing import Any

import numpy as np

from benchmarks.training.libraries.contract import Answer, top_unseen
from benchmarks.training.libraries.exchange import RatingSplit


def rank(split: RatingSplit, seed: int, **parameters: Any) -> Answer:
    """The best unseen items, where the confidence that a user likes an item is ``alpha`` times the stars."""
    model, seconds = _trained(split, seed, parameters)
    return Answer(top_unseen(model.user_factors @ model.item_factors.T, split), seconds)


def fit(split: RatingSplit, seed: int, **parameters: Any) -> Answer:
    """Training alone; it predicts no stars."""
    return Answer(np.empty(0), _trained(split, seed, parameters)[1])


def _trained(split: RatingSplit, seed: int, parameters: dict[str, Any]) -> tuple[Any, float]:
    from implicit.als import AlternatingLeastSquares
    from scipy.sparse import csr_matrix

    train = split.train
    shape = (split.users, split.items)
    stars = csr_matrix((train.rating.astype(np.float32), (train.user, train.item)), shape=shape)
    model = AlternatingLeastSquares(random_state=seed, **parameters)
    started = time.perf_counter()
    model.fit(stars, show_progress=False)
    return model, time.perf_counter() - started
