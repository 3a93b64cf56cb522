"""Two versions of a model on rows that neither has learned from."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Literal

import msgspec

from driftwheel.bundle import read_bundle
from driftwheel.contracts import incompatibility
from driftwheel.errors import ConfigurationError, DataError, NotFoundError, TrainingError
from driftwheel.settings import Settings
from driftwheel.wheel.lifecycle import current_rollout, find_dataset
from driftwheel.wheel.progress import Task
from training.mlflow_store import is_empty

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from training.answers import Answers
    from training.comparison import Difference
    from training.job import Result
    from training.registry import VersionInfo

_FEWEST_ROWS = 50
"""Fewer rows that neither version has learned from tell nothing."""
_MOST_HINDSIGHT = 0.01
"""The share of rows from before the end of the older version's data, as the gate has it."""

Verdict = Literal["better", "worse", "no difference shown"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """How version ``b`` does beside version ``a``."""

    model: str
    a: int
    b: int
    data_of: int
    """Whose test split the rows are: the version with the newer data."""
    rows: int
    left_out: int
    """Rows of the split that the other version had learned from."""
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
    answers: "Answers"
    """Of the version whose rows they are."""
    kept: "NDArray[np.bool_]"
    """Which rows count."""
    data_of: int
    result: "Result"
    """Of the version whose rows they are."""


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
    """Compare two versions by the answers that their runs put on record, with bootstrapped intervals.

    The rows are the test split of the version with the newer data. It answered them before it learned from them; the other
    is asked now, and rows that it has learned from do not count.

    Raises:
        ConfigurationError: Both are the same version.
        NotFoundError: A version is not registered, or the older one has no bundle.
        TrainingError: A run has no answers on record.
        DataError: Too few rows are left, the older version learned from a later time than theirs, what it learned from is
            not there any more, or one is trained to rank.
    """
    from training.comparison import HEADLINE, differences
    from training.config import config_from

    sides = _sides(settings, model, a, b)
    kept, answers, result = sides.kept, sides.answers, sides.result
    key = answers.signature.key_input
    clusters = answers.tensors[key][kept] if key else None
    found = differences(
        result.task,
        sides.a[kept],
        sides.b[kept],
        answers.actual[kept],
        clusters=clusters,
        config=config_from(result.task, result.config),
        resamples=resamples,
        on_progress=lambda done, total: task.update(done, total, f"resample {done} of {total}"),
    )
    headline = next(one for one in found if one.metric == HEADLINE[result.task])
    verdicts: dict[str | None, Verdict] = {"a": "worse", "b": "better", None: "no difference shown"}
    return Comparison(
        model=model,
        a=a,
        b=b,
        data_of=sides.data_of,
        rows=int(kept.sum()),
        left_out=int((~kept).sum()),
        clusters=len(set(clusters.tolist())) if clusters is not None else None,
        resamples=resamples,
        metric=headline.metric,
        verdict=verdicts[headline.better],
        differences=found,
    )


def metrics_side_by_side(
    settings: Settings, model: str, a: int, b: int
) -> tuple[dict[str, float], dict[str, float]] | None:
    """Both versions' metrics on the rows that ``compare`` takes; None where the records do not give that."""
    from training.config import config_from
    from training.final_metrics import task_metrics

    if is_empty(settings):
        return None
    try:
        sides = _sides(settings, model, a, b)
    except (NotFoundError, TrainingError, DataError):
        return None
    config = config_from(sides.result.task, sides.result.config)
    first, second = (
        task_metrics(sides.result.task, answers[sides.kept], sides.answers.actual[sides.kept], config)
        for answers in (sides.a, sides.b)
    )
    return first, second


def _sides(settings: Settings, model: str, a: int, b: int) -> _Sides:
    import numpy as np

    from training.evaluation import bundle_answers, is_for_ranking
    from training.registry import Registry

    if a == b:
        raise ConfigurationError(f"a comparison takes two versions of {model}, got {a} twice")
    registry = Registry(settings)
    infos = [registry.info(model, version) for version in (a, b)]
    older, newer = sorted(infos, key=lambda info: (info.tags.get("data_until", ""), info.version))
    answers, result = _on_record(settings, newer)
    _refuse_ranking(newer, _is_ranking(result))
    if _evaluated_on(settings, older) == _evaluated_on(settings, newer):
        recorded, its_result = _on_record(settings, older)
        _refuse_ranking(older, _is_ranking(its_result))
        others = recorded.predicted
        kept = np.ones(len(others), dtype=bool)
    else:
        bundle = read_bundle(settings.models, model, older.version)
        _refuse_ranking(older, is_for_ranking(bundle))
        if (why := incompatibility(bundle.manifest.signature, answers.signature)) is not None:
            raise DataError(
                f"versions {older.version} and {newer.version} of {model} cannot answer the same rows: {why}",
                hint="a trial (driftwheel canary) takes versions of one signature, too; promote one by hand",
            )
        _refuse_hindsight(older, newer, answers)
        others = bundle_answers(bundle, answers.tensors)
        kept = ~_learned(settings, older, answers)
    if kept.sum() < _FEWEST_ROWS:
        raise DataError(
            f"version {older.version} of {model} has learned from all but {kept.sum()} of the {len(kept)} test rows of "
            f"version {newer.version}; a comparison takes {_FEWEST_ROWS}"
        )
    by_version = {older.version: others, newer.version: answers.predicted}
    return _Sides(by_version[a], by_version[b], answers, kept, newer.version, result)


def _is_ranking(result: "Result") -> bool:
    from training.config import config_from, is_ranking

    return is_ranking(config_from(result.task, result.config))


def _refuse_ranking(info: "VersionInfo", ranking: bool) -> None:  # noqa: FBT001
    """What is trained to rank gives scores that are no ratings: there is nothing to compare them with row by row."""
    if ranking:
        raise DataError(
            f"version {info.version} of {info.name} was trained to rank; versions are compared by ratings or probabilities",
            hint="driftwheel models show has its rankings' metrics; a trial (driftwheel canary) compares on live traffic",
        )


def _refuse_hindsight(older: "VersionInfo", newer: "VersionInfo", answers: "Answers") -> None:
    """A version that has learned what the same users did after the rows in question would win by that."""
    until = older.tags.get("data_until")
    if answers.at is None or not until:
        return
    share = float((answers.at <= datetime.fromisoformat(until).timestamp()).mean())
    if share > _MOST_HINDSIGHT:
        raise DataError(
            f"version {older.version} of {older.name} has learned until {until}, and {share:.0%} of the test rows of version "
            f"{newer.version} are from before that: it knows what came after them",
            hint="compare versions of the same data, or let a trial (driftwheel canary) compare them on live traffic",
        )


def _evaluated_on(settings: Settings, info: "VersionInfo") -> str:
    from training.run_record import read_run

    return read_run(settings, info.run_id).params["evaluation_fingerprint"]


def _on_record(settings: Settings, info: "VersionInfo") -> "tuple[Answers, Result]":
    """A run's answers on its test split, and how it was trained."""
    from training.answers import FILE, read_answers
    from training.job import RESULT, Result
    from training.mlflow_store import EVALUATION_FOLDER, WEIGHTS_FOLDER
    from training.run_record import fetch_file

    with TemporaryDirectory() as folder:
        answers = fetch_file(settings, info.run_id, f"{EVALUATION_FOLDER}/{FILE}", Path(folder))
        result = fetch_file(settings, info.run_id, f"{WEIGHTS_FOLDER}/{RESULT}", Path(folder))
        if answers is None or result is None:
            raise TrainingError(
                f"the run of version {info.version} of {info.name} has no answers on its test split on record",
                hint="it was trained by an older Driftwheel: train again",
            )
        return read_answers(answers), msgspec.json.decode(result.read_bytes(), type=Result)


def _learned(settings: Settings, info: "VersionInfo", answers: "Answers") -> "NDArray[np.bool_]":
    """Which rows ``[rows]`` a version's weights were trained on."""
    import pandas as pd

    from training.data.dataset import public_tensors, read_split

    dataset = find_dataset(settings, info.tags["data_fingerprint"])
    train = read_split(dataset, "train")
    names = list(answers.tensors)
    learned, asked = (
        pd.util.hash_pandas_object(pd.DataFrame(tensors)[names], index=False)
        for tensors in (public_tensors(dataset.signature, train), answers.tensors)
    )
    return asked.isin(set(learned)).to_numpy()
