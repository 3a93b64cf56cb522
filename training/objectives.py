"""What training makes small: one module a task, so that DDP wraps the loss and the model together."""

from abc import ABC, abstractmethod
from typing import Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from training.config import ChurnConfig, RatingConfig, TrainConfig
from training.data.dataset import Dataset, EncodedSplit
from training.models.churn_network import ChurnNetwork, ChurnNetworkShape
from training.models.matrix_factorization import MatrixFactorization, MatrixFactorizationShape
from training.sharding import ShardedTable

Feed = dict[str, Tensor]

ModelT = TypeVar("ModelT", MatrixFactorization, ChurnNetwork)


class Objective(nn.Module, ABC, Generic[ModelT]):
    """A model with its loss. ``forward`` gives the loss of a batch, penalties included."""

    model: ModelT
    weight_decay: float = 0.0
    """What the optimizer takes off the weights in each step, times the learning rate."""
    sharded: tuple[str, ...] = ()
    """Parameters of which this rank has some rows only."""

    @abstractmethod
    def forward(self, feed: Feed, label: Tensor) -> Tensor:
        """The mean loss of a batch, a scalar, from graph inputs and labels float32 ``[n]``."""

    @abstractmethod
    def row_loss(self, feed: Feed, label: Tensor) -> Tensor:
        """The loss of each row ``[n]`` without penalties, for the validation metric."""

    @staticmethod
    def metric(mean_row_loss: float) -> float:
        """The validation metric that is watched: lower is better."""
        return mean_row_loss


class RatingObjective(Objective[MatrixFactorization]):
    """Squared error and damping; validation RMSE.

    Damping is a ridge on the whole tables: a bias is drawn to zero as if there were so many more ratings, all average.
    Rare items and users so stay near the mean. (A penalty on each rated pair would shrink all alike.)
    """

    def __init__(self, model: MatrixFactorization, config: RatingConfig, train_rows: int) -> None:
        super().__init__()
        self.model = model
        tables = {name: module for name, module in self.named_modules() if isinstance(module, ShardedTable)}
        self.sharded = tuple(f"{name}.weight" for name in tables)
        # A rank knows the ridge of its own rows only; so many times that, and the mean over the ranks is the whole.
        parts = next((table.ranks for table in tables.values()), 1)
        self._bias_weight = parts * config.bias_damping / train_rows
        self._vector_weight = parts * config.vector_damping / train_rows

    def forward(self, feed: Feed, label: Tensor) -> Tensor:
        model = self.model
        error = functional.mse_loss(model.raw_scores(feed["user_index"], feed["item_index"]), label)
        biases = model.user_bias.weight.square().sum() + model.item_bias.weight.square().sum()
        vectors = model.user_vector.weight.square().sum() + model.item_vector.weight.square().sum()
        return error + self._bias_weight * biases + self._vector_weight * vectors

    def row_loss(self, feed: Feed, label: Tensor) -> Tensor:
        return (self.model(feed["user_index"], feed["item_index"]) - label).square()

    @staticmethod
    def metric(mean_row_loss: float) -> float:
        return mean_row_loss**0.5


class ChurnObjective(Objective[ChurnNetwork]):
    """Log loss, over logits; each head has its own; the optimizer decays the weights."""

    def __init__(self, model: ChurnNetwork, config: ChurnConfig) -> None:
        super().__init__()
        self.model = model
        self.weight_decay = config.weight_decay

    def forward(self, feed: Feed, label: Tensor) -> Tensor:
        logits = self.model.head_logits(feed["category"], feed["number"]).float()  # they are bf16 under autocast
        return functional.binary_cross_entropy_with_logits(logits, label.expand_as(logits))

    def row_loss(self, feed: Feed, label: Tensor) -> Tensor:
        logits = self.model.logits(feed["category"], feed["number"])
        return functional.binary_cross_entropy_with_logits(logits, label, reduction="none")


def build_objective(
    dataset: Dataset, train: EncodedSplit, config: TrainConfig, *, shard_tables: bool = False
) -> RatingObjective | ChurnObjective:
    """A fresh model for a dataset, with its statistics taken from the training split, and the loss that fits it.

    Args:
        shard_tables: Hold this rank's rows of the user and item tables only.
    """
    if isinstance(config, RatingConfig):
        table = ShardedTable if shard_tables else None
        return RatingObjective(_matrix_factorization(dataset, train, config, table), config, len(train.label))
    if isinstance(config, ChurnConfig):
        return ChurnObjective(_churn_network(dataset, train, config), config)
    raise TypeError(f"no model is trained by a {type(config).__name__}")


def _matrix_factorization(
    dataset: Dataset, train: EncodedSplit, config: RatingConfig, table: type[ShardedTable] | None
) -> MatrixFactorization:
    vocabularies, output = dataset.read_vocabularies(), dataset.signature.outputs[0]
    model = MatrixFactorization(
        MatrixFactorizationShape(
            users=vocabularies["user_id"].table_size,
            items=vocabularies["item_id"].table_size,
            factors=config.factors,
            low=output.low,
            high=output.high,
        ),
        table,
    )
    model.mean.data.fill_(float(train.label.mean(dtype=np.float64)))
    return model


def _churn_network(dataset: Dataset, train: EncodedSplit, config: ChurnConfig) -> ChurnNetwork:
    vocabularies = dataset.read_vocabularies()
    categories = sorted(
        (spec for spec in dataset.signature.inputs if spec.role == "category"), key=lambda s: s.column or 0
    )
    number = train.feed.get("number", np.empty((len(train.label), 0), dtype=np.float32)).astype(np.float64)
    model = ChurnNetwork(
        ChurnNetworkShape(
            categories=tuple(vocabularies[spec.name].table_size for spec in categories),
            numbers=number.shape[1],
            embedding=config.embedding,
            hidden=config.hidden,
            dropout=config.dropout,
            bins=config.bins,
            heads=config.heads,
        )
    )
    present = np.ma.masked_invalid(number)
    mean, deviation = present.mean(axis=0).filled(0.0), present.std(axis=0).filled(1.0)
    model.number_mean.copy_(torch.from_numpy(mean))
    model.number_deviation.copy_(torch.from_numpy(np.where(deviation > 0, deviation, 1.0)))  # a constant column is 0
    edges = [_edges(column.compressed(), config.bins) for column in present.T]
    model.number_edges.copy_(torch.from_numpy(np.array(edges).reshape(number.shape[1], config.bins + 1)))
    return model


def _edges(present: NDArray[np.float64], bins: int) -> NDArray[np.float64]:
    """The edges ``[bins + 1]`` of bins of equal mass; where values repeat there are fewer, and the last fills up."""
    if not len(present):
        return np.zeros(bins + 1)
    edges = np.unique(np.quantile(present, np.linspace(0, 1, bins + 1)))
    return np.append(edges, np.full(bins + 1 - len(edges), edges[-1]))
