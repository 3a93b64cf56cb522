"""The pictures of a training run, drawn without a display."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from training.config import config_from, validation_metric
from training.final_metrics import costs_of
from training.importance import Importance
from training.job import TrainedModel
from training.metrics import Costs, calibration_error, confusion_counts, equal_mass_bins, mean_cost

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Panel = Callable[["Axes"], None]
"""Draws on empty axes."""

Pictures = dict[str, tuple[Panel, ...]]
"""Panels that belong side by side, by the picture's name."""

_DARK_TEXT = "#08306b"
"""On light cells, whatever the page's own colour of text is."""


def training_pictures(
    evaluated: TrainedModel,
    metrics: dict[str, float],
    predicted: NDArray[Any],
    actual: NDArray[Any],
    importance: list[Importance],
) -> Pictures:
    """What there is to see of a run.

    Args:
        evaluated: Whose history the learning curve is.
        metrics: The run's.
        predicted: Of the test split, ``[rows]``.
        actual: Its labels, ``[rows]``.
        importance: Empty where it was not measured.
    """
    pictures: Pictures = {"learning_curve": (lambda axes: _training_loss(axes, evaluated),)}
    if any(event.valid_metric is not None for event in evaluated.history):
        pictures["learning_curve"] += (lambda axes: _validation(axes, evaluated),)
    if evaluated.task == "rating":
        pictures["residuals"] = (
            lambda axes: _residuals(axes, predicted, actual),
            lambda axes: _by_actual_rating(axes, predicted, actual),
        )
        if by_length := _ranking_by_length(metrics):
            pictures["ranking"] = (lambda axes: _ranking(axes, by_length),)
        return pictures
    costs = costs_of(config_from(evaluated.task, evaluated.config))
    pictures["confusion_matrix"] = (
        lambda axes: _confusion(axes, predicted, actual, 0.5),
        lambda axes: _confusion(axes, predicted, actual, costs.threshold),
    )
    pictures["cost_by_threshold"] = (lambda axes: _cost_by_threshold(axes, predicted, actual, costs),)
    pictures["roc_and_calibration"] = (
        lambda axes: _roc(axes, predicted, actual),
        lambda axes: _calibration(axes, predicted, actual),
    )
    if importance:
        pictures["importance"] = (lambda axes: _importances(axes, importance),)
    return pictures


def figures(pictures: Pictures) -> "Iterator[tuple[str, Figure]]":
    """File names and figures, the panels of a picture side by side."""
    for name, panels in pictures.items():
        figure, columns = blank_figure(len(panels))
        for draw, axes in zip(panels, columns, strict=True):
            draw(axes)
        yield f"{name}.png", figure


_VALIDATION = {"rmse": "RMSE", "log_loss": "log loss", "ndcg_loss": "1 - NDCG@10"}


def _training_loss(axes: "Axes", trained: TrainedModel) -> None:
    axes.plot([event.epoch for event in trained.history], [event.train_loss for event in trained.history])
    axes.set(xlabel="epoch", ylabel="training loss, penalties included", title="Training")


def _validation(axes: "Axes", trained: TrainedModel) -> None:
    """The epoch of the kept weights is marked."""
    points = [(event.epoch, event.valid_metric) for event in trained.history if event.valid_metric is not None]
    axes.plot([epoch for epoch, _ in points], [metric for _, metric in points])
    axes.axvline(trained.best_epoch, linestyle="--", color="grey")
    measured_by = validation_metric(config_from(trained.task, trained.config))
    axes.set(xlabel="epoch", ylabel=_VALIDATION[measured_by], title="Validation")


def _residuals(axes: "Axes", predicted: NDArray[Any], actual: NDArray[Any]) -> None:
    axes.hist(actual - predicted, bins=50)
    axes.set(xlabel="actual - predicted", ylabel="ratings", title="Residuals")


def _by_actual_rating(axes: "Axes", predicted: NDArray[Any], actual: NDArray[Any]) -> None:
    """The prediction's mean and spread by actual rating."""
    values = np.unique(np.round(actual * 2) / 2)
    groups = [predicted[np.round(actual * 2) / 2 == value] for value in values]
    axes.errorbar(values, [g.mean() for g in groups], [g.std() for g in groups], fmt="o")
    axes.plot([values.min(), values.max()], [values.min(), values.max()], color="grey")
    axes.set(xlabel="actual rating", ylabel="predicted, mean and deviation", title="Predicted against actual")


def _ranking_by_length(metrics: dict[str, float]) -> dict[int, dict[str, float]]:
    """Metrics of rankings by the length of the list; empty without rankings."""
    by_length: dict[int, dict[str, float]] = {}
    for name, value in metrics.items():
        metric, _, length = name.rpartition("_at_")
        if metric and length.isdecimal():
            by_length.setdefault(int(length), {})[metric.replace("_", " ")] = value
    return by_length


def _ranking(axes: "Axes", by_length: dict[int, dict[str, float]]) -> None:
    """A group of bars for each metric, a bar for each length of the list."""
    height = 0.8 / len(by_length)
    for n, (length, metrics) in enumerate(sorted(by_length.items())):
        axes.barh(np.arange(len(metrics)) + n * height, list(metrics.values()), height, label=f"first {length}")
    names = list(next(iter(by_length.values())))
    axes.set_yticks(np.arange(len(names)) + 0.4 - height / 2, names)
    axes.invert_yaxis()
    axes.legend(framealpha=0)
    axes.set(xlabel="mean over users", title="Recommendations")


def _confusion(axes: "Axes", predicted: NDArray[Any], actual: NDArray[Any], threshold: float) -> None:
    counts = np.array(list(confusion_counts(predicted, actual, threshold).values())).reshape(2, 2)
    axes.imshow(counts, cmap="Blues")
    for (row, column), count in np.ndenumerate(counts):
        color = "white" if count > counts.max() / 2 else _DARK_TEXT
        axes.text(column, row, str(count), ha="center", va="center", color=color)
    axes.set(xticks=[0, 1], yticks=[0, 1], xticklabels=["stays", "leaves"], yticklabels=["stayed", "left"])
    axes.set(xlabel="predicted", ylabel="actual", title=f"Confusion at {threshold:.3g}")


def _cost_by_threshold(axes: "Axes", predicted: NDArray[Any], actual: NDArray[Any], costs: Costs) -> None:
    """What mistakes cost a customer at each threshold, the one that the costs ask for marked."""
    thresholds = np.linspace(0, 1, 101)
    axes.plot(thresholds, [mean_cost(predicted, actual, threshold, costs) for threshold in thresholds])
    axes.axvline(costs.threshold, linestyle="--", color="grey")
    title = f"A miss costs {costs.missed:g}, a needless offer {costs.needless:g}"
    axes.set(xlabel="offers from this probability on", ylabel="cost per customer", title=title)


def _roc(axes: "Axes", predicted: NDArray[Any], actual: NDArray[Any]) -> None:
    order = np.argsort(-predicted, kind="stable")
    hits, misses = np.cumsum(actual[order] == 1), np.cumsum(actual[order] == 0)
    axes.plot(misses / max(misses[-1], 1), hits / max(hits[-1], 1))
    axes.plot([0, 1], [0, 1], color="grey")
    axes.set(xlabel="false positive rate", ylabel="true positive rate", title="ROC")


def _calibration(axes: "Axes", predicted: NDArray[Any], actual: NDArray[Any]) -> None:
    """The share that left by tenth of predicted probability."""
    bins = equal_mass_bins(predicted)
    axes.plot([predicted[rows].mean() for rows in bins], [actual[rows].mean() for rows in bins], marker="o")
    axes.plot([0, 1], [0, 1], color="grey")
    error = calibration_error(predicted, actual)
    axes.set(xlabel="mean predicted probability", ylabel="share that left", title=f"Calibration, error {error:.3f}")


def _importances(axes: "Axes", importance: list[Importance]) -> None:
    """The greatest at the top, with a deviation over the shuffles to either side."""
    rising = importance[::-1]
    spread = [one.log_loss_deviation for one in rising]
    axes.barh([one.feature for one in rising], [one.log_loss for one in rising], xerr=spread, ecolor="grey")
    axes.tick_params(axis="y", labelsize=7)
    axes.set(xlabel="rise of the log loss when shuffled", title="Importance by permutation")


def blank_figure(columns: int) -> "tuple[Figure, list[Axes]]":
    """A figure of its own: pyplot would keep it, and choose a backend with a display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5 * columns, 4), layout="tight")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(1, columns, squeeze=False)[0])
