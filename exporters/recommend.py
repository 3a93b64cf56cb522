"""What serving recommends from: the factors as tables, and the whole model sorted in numpy to prove the search against."""

import dataclasses
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from driftwheel.bundle import FACTOR_PARAMETERS, ITEM_FACTORS, USER_FACTORS, USER_PRIOR
from driftwheel.contracts import FactorParameters
from training.config import AlsConfig, RatingConfig, TrainConfig
from training.models.fold_in import FoldIn
from training.models.matrix_factorization import MatrixFactorization


def write_factors(
    folder: Path, model: MatrixFactorization, config: TrainConfig, fold_in: FoldIn | None = None
) -> FactorParameters:
    """Write the tables and parameters into a bundle's folder.

    Args:
        config: What the model was trained with: if ``fold_in`` says nothing else, users unknown to it are folded in with the
            same damping.
    """
    fold_in = fold_in or FoldIn()
    parameters = FactorParameters(
        mean=model.mean.item(), low=model.shape.low, high=model.shape.high, preference=fold_in.preference
    )
    if isinstance(config, RatingConfig | AlsConfig):
        parameters = dataclasses.replace(
            parameters, vector_damping=config.vector_damping, bias_damping=config.bias_damping
        )
    (folder / ITEM_FACTORS).parent.mkdir(exist_ok=True)
    np.save(folder / USER_FACTORS, np.hstack([_numpy(model.user_vector.weight), _numpy(model.user_bias.weight)]))
    np.save(folder / ITEM_FACTORS, np.hstack([_numpy(model.item_vector.weight), _numpy(model.item_bias.weight)])[1:])
    if fold_in.prior is not None:
        np.save(folder / USER_PRIOR, fold_in.prior)
    (folder / FACTOR_PARAMETERS).write_bytes(msgspec.json.encode(parameters))
    return parameters


def recommend_in_numpy(
    model: MatrixFactorization, user: int, excluded: NDArray[np.int64], k: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The item indices and scores that a user should get, by sorting everything; equal raw scores by index.

    Args:
        user: Its index.
        excluded: Item indices.
    """
    vector, items = _numpy(model.user_vector.weight)[user], _numpy(model.item_vector.weight)
    raw = items.astype(np.float64) @ vector.astype(np.float64) + _numpy(model.item_bias.weight)[:, 0]
    raw[0] = -np.inf
    raw[excluded] = -np.inf
    best = np.argsort(-raw, kind="stable")[:k]
    best = best[np.isfinite(raw[best])]
    scores = raw[best] + _numpy(model.user_bias.weight)[user, 0] + model.mean.item()
    return best, scores.clip(model.shape.low, model.shape.high).astype(np.float32)


def _numpy(tensor: Any) -> NDArray[np.float32]:
    return tensor.detach().cpu().numpy()
