"""Customers who are made up: six numbers, four categories, and a model that is right about them.

Probabilities are those that the labels are drawn with, so that the model is calibrated, and labels come for every row. With a
daily cycle, one number, one category, and with them the predictions, follow the hour. Windows come twelve a day.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import expit

from driftwheel.contracts import InputSpec, Manifest, OutputSpec, Signature, TrainingRecord
from driftwheel.vocabulary import Vocabulary
from monitoring.drift.reference import Reference

WINDOWS_A_DAY = 12
DAY_S = 86_400
START_S = 1_767_225_600.0
"""The first window begins at midnight, 2026-01-01."""

TRAINED_ON, TRAINED_DAYS = 50_000, 28
"""Rows that the first version learned from, evenly over so many days before the first window."""

REFERENCE_ROWS = 10_000

_NUMBERS = ("balance", "income", "waiting", "share", "change", "calls")
_CATEGORIES = {
    "plan": (0.6, 0.3, 0.1),
    "region": tuple(np.arange(1, 9) ** -1.0 / (np.arange(1, 9) ** -1.0).sum()),
    "online": (0.7, 0.3),
    "shop": tuple(np.arange(1, 41) ** -0.8 / (np.arange(1, 41) ** -0.8).sum()),
}

SIGNATURE = Signature(
    inputs=(
        *(InputSpec(name=name, datatype="FP32", role="number", graph_input="numbers") for name in _NUMBERS),
        *(InputSpec(name=name, datatype="BYTES", role="category", graph_input="categories") for name in _CATEGORIES),
    ),
    outputs=(OutputSpec(name="probability", low=0.0, high=1.0),),
    label="churn",
    label_low=0.0,
    label_high=1.0,
)


@dataclass(frozen=True, slots=True)
class Shift:
    """What has become different. ``mean`` is added to ``balance``, which the model weighs most, in standard deviations; of
    ``tail`` of the rows ``waiting`` is three standard deviations above its mean; of ``plan`` of the rows the plan is another;
    of ``noise`` of them the label is the other one; of ``empty`` of them ``income`` is missing.
    """

    mean: float = 0.0
    tail: float = 0.0
    plan: float = 0.0
    noise: float = 0.0
    empty: float = 0.0


NOTHING = Shift()


class Customers:
    """A stream of customers.

    Args:
        cycle: How far the daily cycle moves ``balance`` up and down, in standard deviations; 0: there is none.
    """

    def __init__(self, rng: np.random.Generator, *, cycle: float = 0.0) -> None:
        self._rng = rng
        self._cycle = cycle
        self._names = {
            name: np.array([f"{name} {i}" for i in range(len(p))], object) for name, p in _CATEGORIES.items()
        }
        self._vocabularies = {name: Vocabulary(list(map(str, names))) for name, names in self._names.items()}

    def window(self, shift: Shift, number: int, rows: int) -> pd.DataFrame:
        """Window ``number`` of the stream, its rows in time order."""
        length = DAY_S / WINDOWS_A_DAY
        return self._rows(shift, START_S + length * (number + np.sort(self._rng.random(rows))))

    def reference(self, past: Sequence[tuple[Shift, int, int]]) -> Reference:
        """What a version ships that is trained after these parts of the stream: ``REFERENCE_ROWS`` of all of its rows.

        Args:
            past: Of each part the shift, its first window, and its windows, of as many rows as ``window`` was asked for
                (2,000). What the first version learned from comes before all of them.
        """
        weights = np.array([TRAINED_ON, *(2000 * windows for _, _, windows in past)], dtype=np.float64)
        counts = self._rng.multinomial(REFERENCE_ROWS, weights / weights.sum())
        before = START_S - TRAINED_DAYS * DAY_S * self._rng.random(counts[0])
        frames = [self._rows(NOTHING, before)]
        for (shift, first, windows), rows in zip(past, counts[1:], strict=True):
            within = first + windows * self._rng.random(rows)
            frames.append(self._rows(shift, START_S + DAY_S / WINDOWS_A_DAY * within))
        return Reference(pd.concat(frames, ignore_index=True), _manifest(), self._vocabularies)

    def _rows(self, shift: Shift, seconds: NDArray[np.float64]) -> pd.DataFrame:
        rng, rows = self._rng, len(seconds)
        wave = self._cycle * np.sin(2 * np.pi * seconds / DAY_S)
        balance = rng.standard_normal(rows) + wave + shift.mean
        waiting = rng.exponential(1.0, rows)
        waiting = np.where(rng.random(rows) < shift.tail, 4.0, waiting)
        income = np.exp(rng.standard_normal(rows))
        table: dict[str, NDArray[np.generic]] = {
            "balance": balance,
            "income": np.where(rng.random(rows) < shift.empty, np.nan, income),
            "waiting": waiting,
            "share": rng.random(rows),
            "change": rng.standard_t(3, rows),
            "calls": rng.poisson(2.0, rows).astype(np.float64),
        }
        categories: dict[str, NDArray[np.int64]] = {
            name: np.searchsorted(np.cumsum(shares)[:-1], rng.random(rows)) for name, shares in _CATEGORIES.items()
        }
        # At some hours, and after a shift of plans, customers of the other plans come.
        other = rng.random(rows) < np.clip(shift.plan + np.maximum(wave, 0) / 2, 0, 1)
        categories["plan"] = np.where(other, 2, categories["plan"])
        logit = -1.2 + 0.9 * balance - 0.4 * np.log(income) + 0.3 * waiting + 0.5 * (categories["plan"] == 2)
        probability = expit(logit)
        label = (rng.random(rows) < probability) ^ (rng.random(rows) < shift.noise)
        return pd.DataFrame(
            {
                **{f"in_{name}": values.astype(np.float32) for name, values in table.items()},
                **{f"in_{name}": self._names[name][values] for name, values in categories.items()},
                "out_probability": probability.astype(np.float32),
                "label": label.astype(np.float32),
                "at": pd.to_datetime((seconds * 1e6).astype(np.int64), unit="us", utc=True),
            }
        )


def _manifest() -> Manifest:
    return Manifest(
        name="simulated",
        version=1,
        task="churn",
        created_at="",
        signature=SIGNATURE,
        training=TrainingRecord(run_id="", data_fingerprint="", data_until=None, rows=TRAINED_ON, code_revision=""),
        parity=(),
    )
