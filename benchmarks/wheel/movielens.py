"""MovieLens from its cut date on as traffic, with nobody touching the wheel, beside a model that an oracle retrained."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from benchmarks.wheel.turning import Home, command, settings_of
from driftwheel.bundle import read_bundle
from driftwheel.contracts import Arm
from driftwheel.rollout import read_rollout
from driftwheel.settings import Settings
from driftwheel.wheel.sources import cut_date
from monitoring.segments import moment
from monitoring.windows import read_feedback, read_predictions, with_labels
from training.data.dataset import public_tensors
from training.data.ratings import ratings_after
from training.data.sources import RatingsSource
from training.evaluation import bundle_answers

MODEL = "mf"
SOURCE = RatingsSource()


def run(folder: Path, *, rows_per_s: float, ranks: int, share: float) -> dict[str, Any]:
    """Turn the wheel on the newest ``share`` of all ratings, and judge what it answered since its first promotion.

    Returns:
        Times and counts; root mean squared errors of the wheel, of the oracle (trained on every rating before the promotion)
        and of the first version, on the same rows; and ``quality``, the oracle's as a share of the wheel's.
    """
    settings = settings_of(folder / "home", ranks)
    cut = cut_date(SOURCE, replay_share=share)
    command(settings, "train", MODEL, "--until", cut, "--enter")
    traffic = ratings_after(SOURCE, cut)
    with Home.turning(settings, MODEL, rows_per_s) as home:
        failed = home.send(traffic)
        promoted = [one.at for one in home.entries("verdict") if one.payload["verdict"]["decision"] == "PROMOTE"]
        drifted = [one.at for one in home.entries("drift") if one.payload["decision"]["retrain"]]
        retrains = [one.payload["result"] for one in home.finished_retrains()]
    facts: dict[str, Any] = {"rows": len(traffic), "failed": failed, "retrains": retrains, "promotions": len(promoted)}
    if not promoted:
        return facts
    rows = _answered(settings)
    first, at = rows["at"].iloc[0], moment(promoted[0])
    since = rows["at"] >= at
    facts |= {
        "rows_until_drift": int((rows["at"] < moment(drifted[0])).sum()),
        "rows_until_promotion": int((~since).sum()),
        "s_until_drift": (moment(drifted[0]) - first).total_seconds(),
        "s_until_promotion": (at - first).total_seconds(),
        "rows_judged": int(since.sum()),
        "in_service": read_rollout(settings.rollouts, MODEL).stable,
    }
    return facts | _quality(settings, folder, rows[since], traffic.iloc[int((~since).sum())]["at"], ranks)


def _answered(settings: Settings) -> pd.DataFrame:
    """The labelled predictions, as callers got them, oldest first."""
    rows = with_labels(read_predictions(settings.prediction_log, MODEL), read_feedback(settings.prediction_log, MODEL))
    return rows[(rows["code"] == "OK") & (rows["arm"] != Arm.SHADOW)].dropna(subset=["label"])


def _quality(settings: Settings, folder: Path, rows: pd.DataFrame, until_s: float, ranks: int) -> dict[str, float]:
    oracle = settings_of(folder / "oracle", ranks)
    until = pd.Timestamp(until_s, unit="s", tz="UTC").isoformat()
    command(oracle, "train", MODEL, "--until", until, "--enter")
    wheel = _rmse(rows["out_score"], rows)
    best, frozen = (_rmse(_answers(which, rows), rows) for which in (oracle, settings))
    return {"rmse": wheel, "oracle_rmse": best, "first_version_rmse": frozen, "quality": best / wheel}


def _answers(settings: Settings, rows: pd.DataFrame) -> Any:
    """What version 1 of a home says to rows."""
    bundle = read_bundle(settings.models, MODEL, 1)
    signature = bundle.manifest.signature
    table = pa.table({spec.name: rows[f"in_{spec.name}"].to_numpy() for spec in signature.inputs})
    return bundle_answers(bundle, public_tensors(signature, table))


def _rmse(answers: Any, rows: pd.DataFrame) -> float:
    return float(np.sqrt(np.square(np.asarray(answers, np.float64) - rows["label"].to_numpy(np.float64)).mean()))
