"""What a run shows of a version: points of the ROC curve, a confusion matrix, and pages in Markdown."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from driftwheel.pipelines.steps import Evaluation
    from driftwheel.wheel.dry_run import TrainingPlan
    from training.answers import Answers
    from training.gate import GateVerdict

_POINTS = 100
"""The most points of a curve: they travel as metadata, and a screen has no more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Roc:
    """A curve from (0, 0) to (1, 1); each ``[points]``, thresholds falling."""

    false_positive_rate: list[float]
    true_positive_rate: list[float]
    threshold: list[float]


def roc_curve(score: NDArray[Any], positive: NDArray[np.bool_], *, points: int = _POINTS) -> Roc:
    """The ROC curve of scores ``[rows]``, thinned to so many points that are evenly spread over its thresholds.

    Where there is one class only there is no curve: it has no points.
    """
    positives = int(positive.sum())
    negatives = len(positive) - positives
    if not positives or not negatives:
        return Roc(false_positive_rate=[], true_positive_rate=[], threshold=[])
    order = np.argsort(-score, kind="stable")
    ranked = score[order].astype(np.float64)
    last_of_tie = np.flatnonzero(np.append(np.diff(ranked) != 0, True))
    kept = last_of_tie[np.unique(np.linspace(0, len(last_of_tie) - 1, min(points - 1, len(last_of_tie))).astype(int))]
    hits, misses = np.cumsum(positive[order]), np.cumsum(~positive[order])
    above_all = float(np.nextafter(ranked[0], np.inf))  # who is called positive by it: nobody
    return Roc(
        false_positive_rate=[0.0, *(misses[kept] / negatives).tolist()],
        true_positive_rate=[0.0, *(hits[kept] / positives).tolist()],
        threshold=[above_all, *ranked[kept].tolist()],
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """Answers as a question of yes or no."""

    categories: tuple[str, str]
    """What no and yes are called."""
    threshold: float
    """The score from which on the model says yes."""
    score: NDArray[Any]
    """``[rows]``."""
    positive: NDArray[np.bool_]
    """What was right, ``[rows]``."""

    def confusion(self) -> list[list[int]]:
        """Counts ``[actual][predicted]``, no before yes."""
        from training.metrics import confusion_counts

        counts = confusion_counts(self.score, self.positive.astype(np.float32), self.threshold)
        return [
            [counts["true_negatives"], counts["false_positives"]],
            [counts["false_negatives"], counts["true_positives"]],
        ]


def question(answers: "Answers", metrics: dict[str, float]) -> Question:
    """Of customers: who leaves, at the threshold that follows from what mistakes cost. Of ratings: which are high enough to
    have been worth recommending.
    """
    from training.final_metrics import relevant_from

    if "threshold" in metrics:
        return Question(
            categories=("stays", "leaves"),
            threshold=metrics["threshold"],
            score=answers.predicted,
            positive=answers.actual == 1,
        )
    high = relevant_from(answers.signature.label_low, answers.signature.label_high)
    return Question(
        categories=(f"below {high:g}", f"{high:g} or more"),
        threshold=high,
        score=answers.predicted,
        positive=answers.actual >= high,
    )


def plan_page(plan: "TrainingPlan") -> str:
    """What would be trained, on which data."""
    lines = {
        "data": f"{plan.source}, until {plan.data_until}" if plan.data_until else plan.source,
        "rows": ", ".join(f"{split} {rows:,}" for split, rows in plan.rows.items()),
        "left out": ", ".join(f"{rows:,} {reason}" for reason, rows in plan.dropped.items() if rows) or "none",
        "fingerprint": f"`{plan.fingerprint}`",
        "parameters": ", ".join(f"{name} {value}" for name, value in plan.config.items()),
        "seed": str(plan.seed),
        "version": f"{plan.version}, {'registered already' if plan.registered else 'the next one'}",
        "if it passes the gate": plan.then,
    }
    return _table(f"{plan.model}: what is trained", ("", ""), [[name, text] for name, text in lines.items()])


def evaluation_page(model: str, version: int, evaluation: "Evaluation") -> str:
    """The version's metrics beside those of the version in service."""
    champion = evaluation.champion
    rows = [
        [name, f"{value:.4f}", f"{champion[name]:.4f}" if champion and name in champion else "-"]
        for name, value in sorted(evaluation.metrics.items())
    ]
    title = f"{model} version {version} on {len(evaluation.answers.actual):,} rows held out"
    page = _table(title, ("metric", "this version", "in service"), rows)
    if champion is None:
        return f"{page}\nNothing else is in service.\n"
    return (
        page if champion else f"{page}\nWhat is in service has learned from these rows: it is not measured by them.\n"
    )


def gate_page(model: str, version: int, verdict: "GateVerdict") -> str:
    """What the gate said, and why."""
    title = f"# {model} version {version}: {'passed' if verdict.passed else 'refused'}"
    return "\n".join([title, "", *(f"- {reason}" for reason in verdict.reasons), ""])


def _table(title: str, head: tuple[str, ...], rows: list[list[str]]) -> str:
    lines = [f"# {title}", "", _row(head), _row("---" for _ in head), *(_row(row) for row in rows)]
    return "\n".join(lines) + "\n"


def _row(cells: Any) -> str:
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"
