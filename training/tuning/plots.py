"""The pictures of a study, drawn without a display."""

from typing import TYPE_CHECKING

from training.plots import blank_figure
from training.tuning.trials import TrialRow

if TYPE_CHECKING:
    from collections.abc import Iterator

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS = {"complete": "tab:blue", "pruned": "tab:orange"}


def study_plots(rows: list[TrialRow], importance: dict[str, float], metric: str) -> "Iterator[tuple[str, Figure]]":
    """File names and figures of the trials that reached a value."""
    measured = [row for row in rows if row.state in _COLOURS and row.value is not None]
    yield "history.png", history(measured, metric)
    yield "importance.png", importances(importance)
    yield "slice.png", slices(measured, metric)


def best_so_far(rows: list[TrialRow]) -> list[tuple[int, float]]:
    """Trial number and the best value of the complete trials up to it."""
    reached: list[tuple[int, float]] = []
    for row in rows:
        if row.state == "complete" and row.value is not None:
            reached.append((row.number, min([row.value, *(value for _, value in reached[-1:])])))
    return reached


def history(rows: list[TrialRow], metric: str) -> "Figure":
    """Each trial's value, and the best so far."""
    figure, (axes,) = blank_figure(1)
    for state, colour in _COLOURS.items():
        points = [(row.number, row.value) for row in rows if row.state == state]
        axes.scatter([n for n, _ in points], [v for _, v in points], color=colour, s=18, label=state)  # pyright: ignore[reportArgumentType]
    line = best_so_far(rows)
    axes.step([n for n, _ in line], [v for _, v in line], where="post", color="tab:red", label="best so far")
    axes.set(xlabel="trial", ylabel=metric, title="History")
    axes.legend()
    return figure


def importances(importance: dict[str, float]) -> "Figure":
    """How much each knob matters."""
    figure, (axes,) = blank_figure(1)
    names = sorted(importance, key=lambda name: importance[name])
    axes.barh(names, [importance[name] for name in names])
    axes.set(xlabel="share of the variance explained (PED-ANOVA)", title="Importance")
    if not names:
        axes.text(0.5, 0.5, "too few trials", ha="center", va="center", transform=axes.transAxes)
    return figure


def slices(rows: list[TrialRow], metric: str) -> "Figure":
    """Value against each knob, later trials darker."""
    names = list(dict.fromkeys(name for row in rows for name in row.params))
    figure, panels = blank_figure(max(1, len(names)))
    for axes, name in zip(panels, names, strict=False):
        _slice(axes, [row for row in rows if name in row.params], name)
    panels[0].set(ylabel=metric)
    return figure


def _slice(axes: "Axes", rows: list[TrialRow], name: str) -> None:
    rows = sorted(rows, key=lambda row: _order(row.params[name]))
    values = [row.params[name] for row in rows]
    reached = [row.value or 0.0 for row in rows]
    axes.scatter(values, reached, c=[row.number for row in rows], cmap="Blues", edgecolors="grey", s=22)
    numbers = [value for value in values if not isinstance(value, str)]
    if numbers and min(numbers) > 0 and max(numbers) / min(numbers) > 10:
        axes.set_xscale("log")
    axes.set(xlabel=name)


def _order(value: object) -> tuple[int, object]:
    """Numbers by size; labels by length first, so that "512" comes before "1024"."""
    return (len(value), value) if isinstance(value, str) else (0, value)
