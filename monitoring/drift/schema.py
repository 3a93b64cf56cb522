"""Breaks in the data that no model should learn from."""

from typing import TYPE_CHECKING

from driftwheel.contracts import InputSpec
from driftwheel.predictions import INPUT_PREFIX
from monitoring.drift.columns import indices, is_missing
from monitoring.drift.reference import Reference

if TYPE_CHECKING:
    import pandas as pd

MISSING_LIMIT = 0.2
"""A column is broken when the share of rows without a value is this much above the reference's."""

UNKNOWN_LIMIT = 0.5
"""Likewise the share of categories that the model has never seen. New ids are no fault: users and items come and go."""


def schema_faults(window: "pd.DataFrame", reference: Reference) -> tuple[str, ...]:
    """What is broken in a window, one sentence for each column at fault."""
    faults = (_fault(window, reference, spec) for spec in reference.signature.inputs)
    return tuple(fault for fault in faults if fault)


def _fault(window: "pd.DataFrame", reference: Reference, spec: InputSpec) -> str | None:
    name = INPUT_PREFIX + spec.name
    if name not in window.columns:
        return f"column {spec.name} is not there"
    number = spec.role == "number"
    now, before = (float(is_missing(table[name], number=number).mean()) for table in (window, reference.frame))
    if now > before + MISSING_LIMIT:
        what = "is no number" if number else "is missing"
        return f"column {spec.name} {what} in {now:.1%} of rows, {before:.1%} in the reference"
    if spec.role != "category":
        return None
    vocabulary = reference.vocabularies[spec.name]
    now, before = (float((indices(table[name], vocabulary) < 0).mean()) for table in (window, reference.frame))
    if now > before + UNKNOWN_LIMIT:
        return f"column {spec.name} has values that the model never saw in {now:.1%} of rows"
    return None
