"""Two versions of a model on rows that neither has learned from."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeVar

from driftwheel.errors import DataError, NotFoundError, TrainingError
from driftwheel.settings import Settings
from driftwheel.wheel.comparing_rankings import RankedSides, ranked_sides
from driftwheel.wheel.lifecycle import current_rollout
from driftwheel.wheel.progress import Task
from driftwheel.wheel.version_pair import Pair, find_pair, learned_by_older, older_bundle, recorded_answers
from training.mlflow_store import is_empty

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from training.comparison import Difference

_FEWEST_ROWS = 50
"""Fewer rows that neither version has learned from tell nothing."""

_Side = TypeVar("_Side")

Verdict = Literal["better", "worse", "no difference shown"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """How version ``b`` does beside version ``a``."""

    model: str
    a: int
    b: int
    data_of: int
    """Whose test split the rows are: the version with the newer data."""
    judged_by: Literal["answers", "rankings"]
    """Rankings, where one of them is trained to rank."""
    rows: int
    """That count; of rankings, those that a user rated high."""
    left_out: int
    """Rows of the split that the other version had learned from, or whose user it does not know how to rank for."""
    clusters: int | None
    """Users that are resampled; None where rows are."""
    resamples: int
    metric: str
    """What decides."""
    verdict: Verdict
    """Of ``b``, by that metric."""
    differences: "list[Difference]"


@dataclass(frozen=True, slots=True)
class _Sides:
    """What both versions answered to the same rows."""

    a: "NDArray[np.float32]"
    b: "NDArray[np.float32]"
    kept: "NDArray[np.bool_]"
    """Which rows count."""


def find_version(settings: Settings, model: str, reference: str) -> int:
    """A version by its number, as ``champion`` (in service), ``challenger`` (on trial) or another alias of MLflow's.

    Raises:
        NotFoundError: Nothing is called so.
    """
    if reference.isdecimal():
        return int(reference)
    rollout = current_rollout(settings, model)
    served = {"champion": rollout.stable, "challenger": rollout.candidate} if rollout else {}
    if (version := served.get(reference)) is not None:
        return version
    if reference not in ("champion", "challenger") and not is_empty(settings):
        from training.registry import Registry

        if (version := Registry(settings).with_alias(model, reference)) is not None:
            return version
    raise NotFoundError(
        f"{model} has no {reference!r}: expected a version's number, champion, challenger, or an alias in MLflow",
        hint=f"driftwheel models list {model}",
    )


def compare(settings: Settings, model: str, a: int, b: int, task: Task, *, resamples: int) -> Comparison:
    """Compare two versions by what their runs put on record, with bootstrapped intervals.

    The rows are the test split of the version with the newer data. It answered them before it learned from them; the other
    is asked now, and rows that it has learned from do not count. Where either is trained to rank, both are judged by the
    lists that they make for the users of those rows.

    Raises:
        ConfigurationError: Both are the same version.
        NotFoundError: A version is not registered, or the older one has no bundle.
        TrainingError: A run has no answers, or no rankings, on record.
        DataError: Too few rows or users are left, the older version learned from a later time than theirs, or what a version
            learned from is not there any more.
    """
    pair = find_pair(settings, model, a, b)

    def on_progress(done: int, total: int) -> None:
        task.update(done, total, f"resample {done} of {total}")

    if pair.ranking:
        from training.comparison import RANKING_HEADLINE, ranking_differences

        lists = ranked_sides(settings, pair)
        found = ranking_differences(
            *_in_order(pair, a, lists.older, lists.newer),
            lists.relevant,
            lists.popularity,
            resamples=resamples,
            on_progress=on_progress,
        )
        rows, left_out, clusters = len(lists.relevant.row), lists.left_out, lists.judged_users
        return _compared(pair, a, b, RANKING_HEADLINE, found, rows, left_out, clusters, resamples)
    return _compare_answers(settings, pair, a, b, resamples, on_progress)


def _compare_answers(
    settings: Settings, pair: Pair, a: int, b: int, resamples: int, on_progress: Callable[[int, int], None]
) -> Comparison:
    from training.comparison import HEADLINE, differences
    from training.config import config_from

    sides, answers, result = _sides(settings, pair, a), pair.answers, pair.result
    kept, key = sides.kept, answers.signature.key_input
    clusters = answers.tensors[key][kept] if key else None
    found = differences(
        result.task,
        sides.a[kept],
        sides.b[kept],
        answers.actual[kept],
        clusters=clusters,
        config=config_from(result.task, result.config),
        resamples=resamples,
        on_progress=on_progress,
    )
    drawn = len(set(clusters.tolist())) if clusters is not None else None
    return _compared(pair, a, b, HEADLINE[result.task], found, int(kept.sum()), int((~kept).sum()), drawn, resamples)


def _compared(
    pair: Pair,
    a: int,
    b: int,
    metric: str,
    found: "list[Difference]",
    rows: int,
    left_out: int,
    clusters: int | None,
    resamples: int,
) -> Comparison:
    headline = next(one for one in found if one.metric == metric)
    verdicts: dict[str | None, Verdict] = {"a": "worse", "b": "better", None: "no difference shown"}
    return Comparison(
        model=pair.newer.name,
        a=a,
        b=b,
        data_of=pair.newer.version,
        judged_by="rankings" if pair.ranking else "answers",
        rows=rows,
        left_out=left_out,
        clusters=clusters,
        resamples=resamples,
        metric=metric,
        verdict=verdicts[headline.better],
        differences=found,
    )


def metrics_side_by_side(
    settings: Settings, model: str, a: int, b: int
) -> tuple[dict[str, float], dict[str, float]] | None:
    """Both versions' metrics on the rows that ``compare`` takes; None where the records do not give that, or where ``b``
    predicts ratings and ``a`` is trained to rank: the gate has nothing to hold its ratings against.
    """
    from training.config import config_from
    from training.final_metrics import task_metrics

    if is_empty(settings):
        return None
    try:
        pair = find_pair(settings, model, a, b)
        if pair.ranking:
            return _ranking_metrics(pair, a, ranked_sides(settings, pair)) if b in pair.ranking else None
        sides = _sides(settings, pair, a)
    except (NotFoundError, TrainingError, DataError):
        return None
    config = config_from(pair.result.task, pair.result.config)
    first, second = (
        task_metrics(pair.result.task, answers[sides.kept], pair.answers.actual[sides.kept], config)
        for answers in (sides.a, sides.b)
    )
    return first, second


def _ranking_metrics(pair: Pair, a: int, lists: RankedSides) -> tuple[dict[str, float], dict[str, float]]:
    from training.metrics import ranking_metrics

    first, second = (
        ranking_metrics(side, lists.relevant, lists.popularity) for side in _in_order(pair, a, lists.older, lists.newer)
    )
    return first, second


def _in_order(pair: Pair, a: int, older: _Side, newer: _Side) -> tuple[_Side, _Side]:
    """What belongs to ``a``, then what belongs to the other."""
    return (older, newer) if a == pair.older.version else (newer, older)


def _sides(settings: Settings, pair: Pair, a: int) -> _Sides:
    import numpy as np

    from training.evaluation import bundle_answers

    older, newer, answers = pair.older, pair.newer, pair.answers
    if pair.same_rows:
        others = recorded_answers(settings, older)[0].predicted
        kept = np.ones(len(others), dtype=bool)
    else:
        others = bundle_answers(older_bundle(settings, pair), answers.tensors)
        kept = ~learned_by_older(settings, pair)
    if kept.sum() < _FEWEST_ROWS:
        raise DataError(
            f"version {older.version} of {older.name} has learned from all but {kept.sum()} of the {len(kept)} test rows of "
            f"version {newer.version}; a comparison takes {_FEWEST_ROWS}"
        )
    return _Sides(*_in_order(pair, a, others, answers.predicted), kept)
