"""The pictures of a training run, drawn without a display."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from training.config import config_from
from training.final_metrics import costs_of
from training.job import TrainedModel
from training.metrics import Costs, calibration_error, confusion_counts, equal_mass_bins, mean_cost

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def training_plots(
    trained: TrainedModel, predicted: NDArray[Any], actual: NDArray[Any]
) -> "Iterator[tuple[str, Figure]]":
    """File names and figures.

    Args:
        predicted: Of the test split, ``[rows]``.
        actual: Its labels, ``[rows]``.
    """
    yield "learning_curve.png", learning_curve(trained)
    if trained.task == "rating":
        yield "residuals.png", residuals(predicted, actual)
    else:
        costs = costs_of(config_from(trained.task, trained.config))
        yield "confusion_matrix.png", confusion_matrix(predicted, actual, costs)
        yield "cost_by_threshold.png", cost_by_threshold(predicted, actual, costs)
        yield "roc_and_calibration.png", roc_and_calibration(predicted, actual)


def learning_curve(trained: TrainedModel) -> "Figure":
    """Training loss and validation metric by epoch, the epoch of the kept weights marked."""
    figure, (left, right) = blank_figure(2)
    epochs = [event.epoch for event in trained.history]
    left.plot(epochs, [event.train_loss for event in trained.history])
    left.set(xlabel="epoch", ylabel="training loss, penalties included", title="Training")
    right.plot(epochs, [event.valid_metric for event in trained.history if event.valid_metric is not None])
    right.axvline(trained.best_epoch, linestyle="--", color="grey")
    right.set(xlabel="epoch", ylabel="RMSE" if trained.task == "rating" else "log loss", title="Validation")
    return figure


def residuals(predicted: NDArray[Any], actual: NDArray[Any]) -> "Figure":
    """How ratings are missed: the errors' distribution, and the prediction's mean and spread by actual rating."""
    figure, (left, right) = blank_figure(2)
    left.hist(actual - predicted, bins=50)
    left.set(xlabel="actual - predicted", ylabel="ratings", title="Residuals")
    values = np.unique(np.round(actual * 2) / 2)
    groups = [predicted[np.round(actual * 2) / 2 == value] for value in values]
    right.errorbar(values, [g.mean() for g in groups], [g.std() for g in groups], fmt="o")
    right.plot([values.min(), values.max()], [values.min(), values.max()], color="grey")
    right.set(xlabel="actual rating", ylabel="predicted, mean and deviation", title="Predicted against actual")
    return figure


def confusion_matrix(predicted: NDArray[Any], actual: NDArray[Any], costs: Costs) -> "Figure":
    """Counts at a threshold of one half, and at the one that the costs ask for."""
    figure, both = blank_figure(2)
    for axes, threshold in zip(both, (0.5, costs.threshold), strict=True):
        counts = np.array(list(confusion_counts(predicted, actual, threshold).values())).reshape(2, 2)
        axes.imshow(counts, cmap="Blues")
        for (row, column), count in np.ndenumerate(counts):
            color = "white" if count > counts.max() / 2 else "black"
            axes.text(column, row, str(count), ha="center", va="center", color=color)
        axes.set(xticks=[0, 1], yticks=[0, 1], xticklabels=["stays", "leaves"], yticklabels=["stayed", "left"])
        axes.set(xlabel="predicted", ylabel="actual", title=f"Confusion at {threshold:.3g}")
    return figure


def cost_by_threshold(predicted: NDArray[Any], actual: NDArray[Any], costs: Costs) -> "Figure":
    """What mistakes cost a customer at each threshold, the one that the costs ask for marked."""
    figure, (axes,) = blank_figure(1)
    thresholds = np.linspace(0, 1, 101)
    axes.plot(thresholds, [mean_cost(predicted, actual, threshold, costs) for threshold in thresholds])
    axes.axvline(costs.threshold, linestyle="--", color="grey")
    title = f"A miss costs {costs.missed:g}, a needless offer {costs.needless:g}"
    axes.set(xlabel="offers from this probability on", ylabel="cost per customer", title=title)
    return figure


def roc_and_calibration(predicted: NDArray[Any], actual: NDArray[Any]) -> "Figure":
    """The ROC curve, and the share that left by tenth of predicted probability."""
    figure, (left, right) = blank_figure(2)
    order = np.argsort(-predicted, kind="stable")
    hits, misses = np.cumsum(actual[order] == 1), np.cumsum(actual[order] == 0)
    left.plot(misses / max(misses[-1], 1), hits / max(hits[-1], 1))
    left.plot([0, 1], [0, 1], color="grey")
    left.set(xlabel="false positive rate", ylabel="true positive rate", title="ROC")
    bins = equal_mass_bins(predicted)
    right.plot([predicted[rows].mean() for rows in bins], [actual[rows].mean() for rows in bins], marker="o")
    right.plot([0, 1], [0, 1], color="grey")
    right.set(
        xlabel="mean predicted probability",
        ylabel="share that left",
        title=f"Calibration, error {calibration_error(predicted, actual):.3f}",
    )
    return figure


def blank_figure(columns: int) -> "tuple[Figure, list[Axes]]":
    """A figure of its own: pyplot would keep it, and choose a backend with a display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5 * columns, 4), layout="tight")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(1, columns, squeeze=False)[0])
