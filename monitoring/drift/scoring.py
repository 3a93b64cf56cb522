"""One window beside the reference, and beside the first rows that a retrained version met."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from monitoring.drift.clusters import Ints
from monitoring.drift.estimated import estimate_quality
from monitoring.drift.hours import seconds_of
from monitoring.drift.quality import judge_quality, labelled_losses
from monitoring.drift.schema import schema_faults, shares_of
from monitoring.drift.scores import MonitorScore, QualityScore, WindowScores
from monitoring.drift.segments import where_most
from monitoring.drift.watches import binned, users_of
from monitoring.drift.yardstick import Measures, Yardstick
from monitoring.losses import LossSums

if TYPE_CHECKING:
    import pandas as pd


def first_rows(table: "pd.DataFrame", yardstick: Yardstick) -> int:
    """How many of a version's first rows say what it met when it came into service: a window's, or a whole cycle's where
    its traffic has one.
    """
    seconds = seconds_of(table) if yardstick.cycles else None
    if seconds is None:
        return yardstick.settings.window_rows
    longest = max(cycle.period_s for cycle in yardstick.cycles)
    return max(int(np.searchsorted(seconds, seconds[0] + longest)), yardstick.settings.window_rows)


def score_window(
    window: "pd.DataFrame", yardstick: Yardstick, *, retrained: bool = False, known: Yardstick | None = None
) -> WindowScores:
    """Score one window. A column that is absent is a fault, and its monitors say nothing.

    Args:
        yardstick: The reference.
        retrained: A retrain made the version.
        known: The first rows that it met then; None where the window is among them.
    """
    signature, settings = yardstick.reference.signature, yardstick.settings
    measures, bins = yardstick.measures(window), binned(window, yardstick.all_watches)
    users = users_of(window, signature)
    realized = labelled_losses(window, signature, yardstick.reference.manifest.task)
    first = None if known is None else known.measures_of_its_hours(window)
    timed = "at" in window.columns
    return WindowScores(
        start=str(window["at"].iloc[0]) if timed else None,
        end=str(window["at"].iloc[-1]) if timed else None,
        rows=len(window),
        scores=_with_segments(_scores(bins, users, measures), bins, yardstick, measures),
        quality=_quality(realized, yardstick, measures),
        faults=schema_faults(signature, yardstick.shares, shares_of(window, signature, yardstick.all_watches, bins)),
        hours=measures.hours,
        since_first=None if not retrained else () if first is None else _scores(bins, users, first),
        quality_since_first=None if first is None else _quality(realized, yardstick, first),
        estimated=estimate_quality(
            measures.expected,
            measures.expected_auc,
            window,
            yardstick.reference,
            calibrated=yardstick.calibrated,
            margin=settings.quality_margin,
            alpha=settings.alpha,
        ),
    )


def _scores(bins: Mapping[str, Ints], users: Ints | None, measures: Measures) -> tuple[MonitorScore, ...]:
    scores = (monitor.score(bins[monitor.name], users) for monitor in measures.monitors if monitor.name in bins)
    return tuple(score for score in scores if score is not None)


def _quality(realized: LossSums, yardstick: Yardstick, measures: Measures) -> QualityScore:
    task, settings = yardstick.reference.manifest.task, yardstick.settings
    return judge_quality(measures.losses, realized, task=task, margin=settings.quality_margin, alpha=settings.alpha)


def _with_segments(
    scores: tuple[MonitorScore, ...], bins: Mapping[str, Ints], yardstick: Yardstick, measures: Measures
) -> tuple[MonitorScore, ...]:
    """The scores, those that may alarm with the segment that they changed most in."""
    found: list[MonitorScore] = []
    for score in scores:
        alarming = score.p_value <= yardstick.settings.alpha
        segment = (
            where_most(score.monitor, yardstick.all_watches, yardstick.bins, measures.rows, bins) if alarming else ""
        )
        found.append(replace(score, why=f"{score.why}; most where {segment}") if segment else score)
    return tuple(found)
