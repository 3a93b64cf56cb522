"""Breaks in the data that no model should learn from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from driftwheel.contracts import InputSpec, Signature
from driftwheel.predictions import INPUT_PREFIX
from monitoring.drift.clusters import Ints
from monitoring.drift.columns import is_missing
from monitoring.drift.watches import Watch

if TYPE_CHECKING:
    import pandas as pd

MISSING_LIMIT = 0.2
"""A column is broken when the share of rows without a value is this much above the reference's."""

UNKNOWN_LIMIT = 0.5
"""Likewise the share of categories that the model has never seen. New ids are no fault: users and items come and go."""


@dataclass(frozen=True, slots=True)
class Shares:
    """Of one column: the share of rows without a value, and of values that the model has never seen (those included)."""

    missing: float
    unknown: float


def shares_of(
    table: "pd.DataFrame", signature: Signature, watches: Sequence[Watch], bins: Mapping[str, Ints]
) -> dict[str, Shares]:
    """Of every input that the table has, by name; ``unknown`` of categories only.

    Args:
        bins: The table's rows in bins, by watch.
    """
    found: dict[str, Shares] = {}
    for spec in signature.inputs:
        column = INPUT_PREFIX + spec.name
        if column not in table.columns:
            continue
        if spec.role == "id":
            found[spec.name] = Shares(float(is_missing(table[column], number=False).mean()), 0.0)
            continue
        watch = next(watch for watch in watches if watch.column == column)
        # The last bins are those of missing values, and before them of unknown categories.
        last = len(watch.binning.labels) - 1
        missing, unknown = (float((bins[watch.name] >= one).mean()) for one in (last, last - 1))
        found[spec.name] = Shares(missing, unknown if spec.role == "category" else 0.0)
    return found


def schema_faults(signature: Signature, before: Mapping[str, Shares], now: Mapping[str, Shares]) -> tuple[str, ...]:
    """What is broken in a window, one sentence for each column at fault: ``now``, beside ``before`` in the reference."""
    faults = (_fault(spec, now.get(spec.name), before[spec.name]) for spec in signature.inputs)
    return tuple(fault for fault in faults if fault)


def _fault(spec: InputSpec, now: Shares | None, before: Shares) -> str | None:
    if now is None:
        return f"column {spec.name} is not there"
    if now.missing > before.missing + MISSING_LIMIT:
        what = "is no number" if spec.role == "number" else "is missing"
        return f"column {spec.name} {what} in {now.missing:.1%} of rows, {before.missing:.1%} in the reference"
    if now.unknown > before.unknown + UNKNOWN_LIMIT:
        return f"column {spec.name} has values that the model never saw in {now.unknown:.1%} of rows"
    return None
