"""What of a model is watched: of each column its bins, defined once on the reference, for any sample to be counted in."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from driftwheel.contracts import InputSpec, Signature
from driftwheel.predictions import INPUT_PREFIX, OUTPUT_PREFIX
from monitoring.drift.calibration import fit_null
from monitoring.drift.clusters import ClusteredCounts, Ints
from monitoring.drift.columns import (
    TOP,
    Binning,
    CategoryBins,
    HitBins,
    PopularityBins,
    QuantileBins,
    indices,
)
from monitoring.drift.monitors import HistogramMonitor, Monitor, RateMonitor, rate_counts
from monitoring.drift.reference import Reference
from monitoring.drift.scores import Group, Kind

if TYPE_CHECKING:
    import pandas as pd

Units = Literal["users", "rows"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """One thing to watch in a column: into which bins its values go, and which rows of the reference may be counted."""

    name: str
    column: str
    kind: Kind
    binning: Binning
    estimating: NDArray[np.bool_]
    """``[rows of the reference]``: not those that the bins were defined on, where that would flatter the reference."""
    group: Group = "input"
    hit: int | None = None
    """Where it is a share of rows that is watched, the bin that they are in; and what they are."""
    what: str = ""

    def calibrate(self, bins: Ints, users: Ints | None, *, window_rows: int, seed: int) -> Monitor:
        """The monitor that compares windows with a sample whose rows lie in ``bins [rows]``.

        Args:
            users: The user of each of these rows; None where rows are independent.
        """
        users = None if users is None else np.unique(users, return_inverse=True)[1].astype(np.int64)
        common: dict[str, Any] = {"name": self.name, "column": self.column, "kind": self.kind, "group": self.group}
        if self.hit is not None:
            found = (bins == self.hit).astype(np.int64)
            return RateMonitor(
                **common,
                what=self.what,
                hit=self.hit,
                reference_hits=int(found.sum()),
                reference_rows=len(found),
                clustered=None if users is None else rate_counts(found, users),
            )
        counts = np.bincount(bins, minlength=len(self.binning.labels))
        return HistogramMonitor(
            **common,
            labels=self.binning.labels,
            reference_counts=counts,
            null=fit_null(counts, window_rows, seed=seed),
            clustered=None if users is None else ClusteredCounts.of(bins, users, size=len(counts)),
            ordered=len(counts) - 1 if self.kind == "number" else 0,
        )


def users_of(table: "pd.DataFrame", signature: Signature) -> Ints | None:
    """The user of each row ``[rows]``, numbered from 0; None where the signature has no key, or the table lacks it."""
    key = None if signature.key_input is None else INPUT_PREFIX + signature.key_input
    if key is None or key not in table.columns:
        return None
    return table[key].factorize(use_na_sentinel=False)[0].astype(np.int64)


def watches(reference: Reference, *, seed: int) -> tuple[Watch, ...]:
    """Everything that is watched of a model. ``seed`` splits the reference for ids."""
    found: list[Watch] = []
    for spec in reference.signature.inputs:
        found.extend(_id_watches(spec, reference, seed) if spec.role == "id" else _value_watches(spec, reference))
    everything = np.ones(len(reference.frame), dtype=bool)
    for output in reference.signature.outputs:
        column = OUTPUT_PREFIX + output.name
        found.append(
            Watch(
                name=f"prediction {output.name}",
                column=column,
                kind="number",
                binning=QuantileBins.of(reference.frame[column]),
                estimating=everything,
                group="prediction",
            )
        )
    return tuple(found)


def build_monitors(reference: Reference, *, window_rows: int, units: Units = "rows", seed: int) -> tuple[Monitor, ...]:
    """Every monitor of a model, calibrated on all of the reference for windows of ``window_rows`` rows.

    Args:
        units: What is independent of each other, users (where the signature has a key) or rows.
        seed: Splits the reference for ids, and resamples for the null distributions.
    """
    users = users_of(reference.frame, reference.signature) if units == "users" else None
    all_watches = watches(reference, seed=seed)
    return calibrate(
        all_watches,
        binned(reference.frame, all_watches),
        [watch.estimating for watch in all_watches],
        users,
        window_rows=window_rows,
        seed=seed,
    )


def binned(table: "pd.DataFrame", all_watches: Sequence[Watch]) -> dict[str, Ints]:
    """The bin of each row of a table ``[rows]``, by the names of those watches whose columns it has."""
    made: dict[int, Ints] = {}
    found: dict[str, Ints] = {}
    for watch in all_watches:
        if watch.column in table.columns:
            key = id(watch.binning)  # the values of a column and the missing ones share it
            if key not in made:
                made[key] = watch.binning.assign(table[watch.column])
            found[watch.name] = made[key]
    return found


def calibrate(
    all_watches: Sequence[Watch],
    bins: Mapping[str, Ints],
    counted: Sequence[NDArray[np.bool_]],
    users: Ints | None,
    *,
    window_rows: int,
    seed: int,
) -> tuple[Monitor, ...]:
    """A monitor for each watch, from the bins ``[rows]`` of a sample and, for each, which of its rows count ``[rows]``."""
    return tuple(
        watch.calibrate(
            bins[watch.name][part], None if users is None else users[part], window_rows=window_rows, seed=seed
        )
        for watch, part in zip(all_watches, counted, strict=True)
    )


def _value_watches(spec: InputSpec, reference: Reference) -> list[Watch]:
    """The values of a number or category, and the share of rows without one."""
    column, number = INPUT_PREFIX + spec.name, spec.role == "number"
    values, everything = reference.frame[column], np.ones(len(reference.frame), dtype=bool)
    bins = QuantileBins.of(values) if number else CategoryBins.of(reference.vocabularies[spec.name])
    kind: Kind = "number" if number else "category"
    return [
        Watch(name=spec.name, column=column, kind=kind, binning=bins, estimating=everything),
        Watch(
            name=f"{spec.name} missing",
            column=column,
            kind="missing",
            binning=bins,
            estimating=everything,
            hit=len(bins.labels) - 1,
            what="rows without a value",
        ),
    ]


def _id_watches(spec: InputSpec, reference: Reference, seed: int) -> list[Watch]:
    """The share of unknown ids; popularity and the share of the most popular; never the ids themselves.

    Of the key (the users), only unknown ones: which users come is chance, not drift.
    """
    column, vocabulary = INPUT_PREFIX + spec.name, reference.vocabularies[spec.name]
    values = reference.frame[column]
    unknown = Watch(
        name=f"{spec.name} unknown",
        column=column,
        kind="unknown",
        binning=HitBins(lambda ids: indices(ids, vocabulary) < 0),
        hit=1,
        estimating=np.ones(len(values), dtype=bool),
        what="unknown ids",
    )
    if spec.name == reference.signature.key_input:
        return [unknown]
    shuffled = np.random.default_rng(seed).permutation(len(values))
    defining, estimating = shuffled[: len(values) // 2], np.ones(len(values), dtype=bool)
    estimating[defining] = False
    popular = PopularityBins.of(values.iloc[defining])
    halves: dict[str, Any] = {"column": column, "estimating": estimating}
    return [
        unknown,
        Watch(name=f"{spec.name} popularity", kind="popularity", binning=popular, **halves),
        Watch(
            name=f"{spec.name} top {TOP}",
            kind="top",
            binning=HitBins(popular.in_top),
            hit=1,
            what=f"the {TOP} most popular ids",
            **halves,
        ),
    ]
