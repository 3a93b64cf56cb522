"""Two versions and the rows that they are compared on, from what their runs put on record."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import msgspec

from driftwheel.bundle import Bundle, read_bundle
from driftwheel.contracts import incompatibility
from driftwheel.errors import ConfigurationError, DataError, TrainingError
from driftwheel.settings import Settings
from driftwheel.wheel.lifecycle import find_dataset

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from training.answers import Answers
    from training.job import Result
    from training.registry import VersionInfo

_MOST_HINDSIGHT = 0.01
"""The share of rows from before the end of the older version's data, as the gate has it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two versions, by how new their data is."""

    older: "VersionInfo"
    newer: "VersionInfo"
    answers: "Answers"
    """Of the newer one on its test split, whose rows are those of the comparison."""
    result: "Result"
    """How the newer one was trained."""
    same_rows: bool
    """Both were measured on the same test split."""
    ranking: frozenset[int]
    """Which of the two are trained to rank: their scores are no ratings, which could be compared row by row."""


def find_pair(settings: Settings, model: str, a: int, b: int) -> Pair:
    """Look two versions up.

    Raises:
        ConfigurationError: Both are the same.
        NotFoundError: One is not registered.
        TrainingError: The run of the newer one has no answers on record.
    """
    from training.config import config_from, is_ranking
    from training.registry import Registry

    if a == b:
        raise ConfigurationError(f"a comparison takes two versions of {model}, got {a} twice")
    registry = Registry(settings)
    infos = [registry.info(model, version) for version in (a, b)]
    older, newer = sorted(infos, key=lambda info: (info.tags.get("data_until", ""), info.version))
    answers, result = recorded_answers(settings, newer)
    results = {older.version: _recorded_result(settings, older), newer.version: result}
    ranking = {n for n, one in results.items() if is_ranking(config_from(one.task, one.config))}
    return Pair(
        older=older,
        newer=newer,
        answers=answers,
        result=result,
        same_rows=_evaluated_on(settings, older) == _evaluated_on(settings, newer),
        ranking=frozenset(ranking),
    )


def recorded_answers(settings: Settings, info: "VersionInfo") -> "tuple[Answers, Result]":
    """A run's answers on its test split, and how it was trained.

    Raises:
        TrainingError: It has none on record.
    """
    from training.answers import FILE, read_answers
    from training.mlflow_store import EVALUATION_FOLDER
    from training.run_record import fetch_file

    with TemporaryDirectory() as folder:
        answers = fetch_file(settings, info.run_id, f"{EVALUATION_FOLDER}/{FILE}", Path(folder))
        if answers is None:
            raise not_on_record(info, "answers on its test split")
        return read_answers(answers), _recorded_result(settings, info)


def not_on_record(info: "VersionInfo", what: str) -> TrainingError:
    """What to raise where a run has something not on record."""
    return TrainingError(
        f"the run of version {info.version} of {info.name} has no {what} on record",
        hint="it was trained by an older Driftwheel: train again",
    )


def _recorded_result(settings: Settings, info: "VersionInfo") -> "Result":
    from training.job import RESULT, Result
    from training.mlflow_store import WEIGHTS_FOLDER
    from training.run_record import fetch_file

    with TemporaryDirectory() as folder:
        result = fetch_file(settings, info.run_id, f"{WEIGHTS_FOLDER}/{RESULT}", Path(folder))
        if result is None:
            raise not_on_record(info, "parameters")
        return msgspec.json.decode(result.read_bytes(), type=Result)


def _evaluated_on(settings: Settings, info: "VersionInfo") -> str:
    from training.run_record import read_run

    return read_run(settings, info.run_id).params["evaluation_fingerprint"]


def older_bundle(settings: Settings, pair: Pair) -> Bundle:
    """The bundle of the older version, which can be asked about the rows.

    Raises:
        NotFoundError: It has none.
        DataError: It takes other inputs, or it has learned what came after the rows.
    """
    older, newer = pair.older, pair.newer
    bundle = read_bundle(settings.models, older.name, older.version)
    if (why := incompatibility(bundle.manifest.signature, pair.answers.signature)) is not None:
        raise DataError(
            f"versions {older.version} and {newer.version} of {older.name} cannot answer the same rows: {why}",
            hint="a trial (driftwheel canary) takes versions of one signature, too; promote one by hand",
        )
    _refuse_hindsight(pair)
    return bundle


def _refuse_hindsight(pair: Pair) -> None:
    """A version that has learned what the same users did after the rows in question would win by that."""
    older, newer, answers = pair.older, pair.newer, pair.answers
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


def learned_by_older(settings: Settings, pair: Pair) -> "NDArray[np.bool_]":
    """Which rows ``[rows]`` the older version's weights were trained on.

    Raises:
        DataError: What they were trained on is not there any more.
    """
    import pandas as pd

    from training.data.dataset import public_tensors, read_split

    tensors = pair.answers.tensors
    dataset = find_dataset(settings, pair.older.tags["data_fingerprint"])
    train = read_split(dataset, "train")
    names = list(tensors)
    learned, asked = (
        pd.util.hash_pandas_object(pd.DataFrame(columns)[names], index=False)
        for columns in (public_tensors(dataset.signature, train), tensors)
    )
    return asked.isin(set(learned)).to_numpy()
