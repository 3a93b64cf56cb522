"""A run on one page: what it reached, what that looks like, what it was made of. It needs nothing from the network."""

import io
import os
import platform
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from importlib.resources import files

from training.data.dataset import Dataset
from training.importance import REPEATS, Importance
from training.job import TrainedModel
from training.plots import Panel, Pictures, blank_figure

FILE = "report.html"

_HEADLINES = (
    "rmse",
    "mae",
    "ndcg_at_10",
    "recall_at_10",
    "auc",
    "average_precision",
    "log_loss",
    "brier",
    "ece",
    "cost",
)
_LIBRARIES = ("torch", "numpy", "scikit-learn", "onnx", "onnxruntime", "onnxruntime-gpu", "mlflow", "pandas")
_BLACK = "#000000"
"""What matplotlib draws text, ticks and frames in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """What a run's page is made of."""

    evaluated: TrainedModel
    shipped: TrainedModel
    dataset: Dataset
    """Evaluated on."""
    full: Dataset
    """Shipped from."""
    pictures: Pictures
    importance: list[Importance]


def write_run_report(facts: RunFacts) -> bytes:
    """The page, as HTML in UTF-8. It follows the reader's light or dark scheme and fits a narrow screen."""
    import jinja2

    environment = jinja2.Environment(autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined)
    template = environment.from_string(files("training").joinpath("run_report.html").read_text(encoding="utf-8"))
    shipped = facts.shipped
    page = template.render(
        title=f"Training run {shipped.key}",
        subtitle=f"{shipped.task}, on {facts.dataset.source}; code {shipped.code_revision}",
        tiles=_tiles(facts),
        pictures=[
            (name.replace("_", " "), _svg(panel, f"{name}-{n}"))
            for name, panels in facts.pictures.items()
            for n, panel in enumerate(panels)
        ],
        importance=facts.importance,
        repeats=REPEATS,
        tables=[
            ("Metrics on the test split", [(name, f"{value:.6g}") for name, value in shipped.metrics.items()]),
            ("Parameters", [*shipped.config.items(), ("seed", shipped.seed), ("ranks", shipped.ranks)]),
            ("Data", _data(facts)),
            ("Time and memory", _resources(facts)),
            ("Environment", environment_facts(shipped)),
        ],
    )
    return page.encode()


def _tiles(facts: RunFacts) -> list[tuple[str, str]]:
    metrics = facts.shipped.metrics
    tiles = [(name.replace("_", " "), f"{metrics[name]:.4f}") for name in _HEADLINES if name in metrics]
    return [*tiles, ("best epoch", str(facts.evaluated.best_epoch))]


def _data(facts: RunFacts) -> list[tuple[str, object]]:
    dataset, full = facts.dataset, facts.full
    rows: list[tuple[str, object]] = [("source", dataset.source), ("until", dataset.data_until or "no times")]
    rows += [(f"rows, {split}", f"{count:,}") for split, count in dataset.rows.items()]
    rows += [(f"left out: {reason}", f"{count:,}") for reason, count in dataset.dropped.items()]
    rows += [
        ("fingerprint of the evaluation", dataset.fingerprint),
        ("fingerprint of what was shipped", full.fingerprint),
    ]
    return [*rows, ("rows that the shipped weights learned", f"{full.rows['train']:,}")]


def _resources(facts: RunFacts) -> list[tuple[str, object]]:
    history = facts.evaluated.history
    rows: list[tuple[str, object]] = [
        ("epochs of the evaluation", len(history)),
        ("its seconds", f"{sum(event.seconds for event in history):.2f}"),
    ]
    cpu = [event.cpu_seconds for event in history if event.cpu_seconds is not None]
    memory = [event.peak_memory_mb for event in history if event.peak_memory_mb is not None]
    if cpu and memory:
        rows += [("rank 0's processor seconds", f"{sum(cpu):.2f}"), ("its peak memory, MB", f"{max(memory):,.0f}")]
    return [*rows, ("epochs of the shipped weights", facts.shipped.refit_epochs or len(history))]


def environment_facts(trained: TrainedModel) -> list[tuple[str, object]]:
    """Code, interpreter, machine and libraries of this process, which are those of the training that it started."""
    facts: list[tuple[str, object]] = [
        ("code", trained.code_revision),
        ("python", platform.python_version()),
        ("system", f"{platform.system()} {platform.machine()}, {os.cpu_count()} processors"),
        ("device", trained.device),
    ]
    for name in _LIBRARIES:
        with suppress(metadata.PackageNotFoundError):
            facts.append((name, metadata.version(name)))
    return facts


def _svg(panel: Panel, name: str) -> object:
    """One panel as SVG inside a page: text stays text, and what would be black has the page's own colour."""
    import markupsafe
    from matplotlib import rc_context

    figure, (axes,) = blank_figure(1)
    panel(axes)
    content = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(content, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = content.getvalue()
    themed = svg[svg.index("<svg") :].replace(_BLACK, "currentColor").replace("<text ", '<text fill="currentColor" ')
    return markupsafe.Markup(themed)  # noqa: S704 (matplotlib escapes what it writes, column names among it)
