"""What a benchmark leaves behind: a JSON file with every number, a chart, and where it was measured."""

import argparse
import json
import math
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent.parent / "results"

WIDTH = 140
"""Columns of a table where the output is no terminal."""


def console() -> Console:
    """For tables: as wide as the terminal, or wide enough."""
    return Console(width=None if sys.stdout.isatty() else WIDTH)


def add_results_option(parser: argparse.ArgumentParser) -> None:
    """``--results FOLDER``, for trial runs that should not replace what is committed."""
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for JSON and chart (default: results)")


def write_json(folder: Path, name: str, results: Mapping[str, Any]) -> Path:
    """Write ``<folder>/<name>.json``, with where and when it was measured."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    results = {"measured": measured_on(), **results}
    path.write_text(json.dumps(_finite(results), indent=2, default=str) + "\n")
    return path


def _finite(value: Any) -> Any:
    """JSON has no infinity: what never came is null. Folders say something of the machine, and nothing of the numbers."""
    if isinstance(value, Mapping):
        return {key: _finite(one) for key, one in value.items() if not isinstance(one, Path)}
    if isinstance(value, (list, tuple)):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def measured_on() -> dict[str, Any]:
    """The machine and the code, as far as they bear on the numbers."""
    revision = subprocess.run(
        ["git", "describe", "--always", "--dirty"],  # noqa: S607 (a developer's own git)
        cwd=RESULTS.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "code": revision.stdout.strip(),
        "cores": len(os.sched_getaffinity(0)),
        "processor": _processor(),
        "python": platform.python_version(),
        "command": " ".join([Path(sys.argv[0]).stem, *sys.argv[1:]]),
    }


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def bar_charts(
    path: Path, title: str, panels: Sequence[tuple[str, Sequence[str], Mapping[str, Sequence[float]]]]
) -> None:
    """One row of horizontal bars for each panel: its title, the labels, and a value per label for each series."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    heights = [len(labels) * len(series) * 0.32 + 1.0 for _, labels, series in panels]
    figure, axes = plt.subplots(
        len(panels), 1, figsize=(9, sum(heights) + 0.6), layout="constrained", squeeze=False, height_ratios=heights
    )
    for axis, (heading, labels, series) in zip(axes[:, 0], panels, strict=True):
        thickness = 0.8 / len(series)
        for position, (name, values) in enumerate(series.items()):
            places = [row + position * thickness for row in range(len(labels))]
            bars = axis.barh(
                places,
                [value if math.isfinite(value) else 0.0 for value in values],
                height=thickness * 0.92,
                label=name,
            )
            axis.bar_label(bars, labels=[_short(value) for value in values], padding=3, fontsize=8)
        axis.set_yticks([row + 0.4 - thickness / 2 for row in range(len(labels))], labels)
        axis.invert_yaxis()
        axis.set_title(heading, loc="left", fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
        axis.margins(x=0.12)
        if len(series) > 1:
            axis.legend(fontsize=8, frameon=False, loc="lower right")
    figure.suptitle(title, fontsize=12)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _short(value: float) -> str:
    if not math.isfinite(value):
        return "never"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


@dataclass(frozen=True, slots=True)
class Target:
    """What a benchmark has to show."""

    name: str
    value: float
    relation: Literal[">=", "<="]
    bound: float

    @property
    def met(self) -> bool:
        return self.value >= self.bound if self.relation == ">=" else self.value <= self.bound


def show_targets(targets: Sequence[Target]) -> bool:
    """A table of them. Whether all were met."""
    table = Table("target", "measured", "wanted", "met", title="Targets")
    for one in targets:
        met = "[green]yes[/]" if one.met else "[red]NO[/]"
        table.add_row(one.name, _figures(one.value), f"{one.relation} {_figures(one.bound)}", met)
    if targets:
        console().print(table)
    return all(one.met for one in targets)


def _figures(value: float) -> str:
    if math.isnan(value):
        return "not measured"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


Line = tuple[Sequence[float], Sequence[float]]
"""Where and how high."""


def line_charts(path: Path, title: str, panels: Mapping[str, Mapping[str, Line]]) -> None:
    """One panel above the other over the same minutes: its title, and lines by name."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(
        len(panels), 1, figsize=(9, 2.4 * len(panels) + 0.6), layout="constrained", squeeze=False, sharex=True
    )
    for axis, (heading, lines) in zip(axes[:, 0], panels.items(), strict=True):
        for name, (places, heights) in lines.items():
            axis.plot(places, heights, label=name, linewidth=1.2)
        axis.set_ylim(bottom=0)
        axis.set_title(heading, loc="left", fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
        if len(lines) > 1:
            axis.legend(fontsize=8, frameon=False)
    axes[-1, 0].set_xlabel("minutes")
    figure.suptitle(title, fontsize=12)
    figure.savefig(path, dpi=130)
    plt.close(figure)
