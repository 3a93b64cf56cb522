"""surprise: SVD and SVD++ by stochastic gradient descent (https://surprise.readthedocs.io)."""
# pyright: reportMissingImports=false

import time
from typing import Any

import numpy as np

from benchmarks.training.libraries.contract import Answer
from benchmarks.training.libraries.exchange import HIGH, LOW, RatingSplit


def predict(split: RatingSplit, seed: int, *, implicit: bool = False, **parameters: Any) -> Answer:
    """A model of surprise; a user or item that it has not seen has a bias and factors of nothing.

    Args:
        implicit: SVD++ in place of SVD.
        parameters: Of surprise's class.
    """
    import pandas as pd
    from surprise import SVD, Dataset, Reader, SVDpp

    table = pd.DataFrame({"user": split.train.user, "item": split.train.item, "rating": split.train.rating})
    train = Dataset.load_from_df(table, Reader(rating_scale=(LOW, HIGH))).build_full_trainset()
    model = (SVDpp if implicit else SVD)(random_state=seed, **parameters)
    started = time.perf_counter()
    model.fit(train)
    seconds = time.perf_counter() - started
    pairs = zip(split.test.user.tolist(), split.test.item.tolist(), strict=True)
    return Answer(np.array([model.predict(user, item).est for user, item in pairs]), seconds)
