"""The estimators that solve a factorization, by their configuration."""

import torch

from training.config import AlsConfig, BayesConfig, IalsConfig, TrainConfig
from training.factorization.als import AlternatingLeastSquares
from training.factorization.estimator import Estimator
from training.factorization.gibbs import GibbsSampler
from training.factorization.ials import ImplicitLeastSquares
from training.factorization.shards import Shard


def build_estimator(
    shard: Shard, config: TrainConfig, seed: int, device: torch.device, *, low: float, high: float
) -> Estimator:
    """The estimator of a configuration, at its beginning.

    Args:
        low, high: The range of ratings.
    """
    if isinstance(config, BayesConfig):
        return GibbsSampler(shard, config, seed, device)
    if isinstance(config, AlsConfig):
        return AlternatingLeastSquares(shard, config, seed, device)
    if isinstance(config, IalsConfig):
        return ImplicitLeastSquares(shard, config, seed, device, low=low, high=high)
    raise TypeError(f"no factorization is solved by a {type(config).__name__}")
