"""Ids and categories that one version knows and the other does not, counted over the same requests."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from driftwheel.contracts import Signature
from driftwheel.predictions import INPUT_PREFIX
from driftwheel.vocabulary import UNKNOWN, Vocabulary

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

Vocabularies = Mapping[str, Vocabulary]
"""By the name of the input."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnknownIds:
    """Requests of both arms, by who knows their ids and categories. What is missing is unknown to nobody."""

    requests: int = 0
    to_both: int = 0
    """Requests of which neither version knows every value."""
    to_candidate: int = 0
    """Of which the candidate does not, and stable does."""
    to_stable: int = 0


def count_unknown(
    rows: "pd.DataFrame", signature: Signature, stable: Vocabularies, candidate: Vocabularies
) -> UnknownIds:
    """Look the inputs of logged rows up in the vocabularies of both versions.

    Which arm answered does not matter: each request is held against both, so that no chance of the split comes in. The
    items of a recommendation are the model's own and are left out.
    """
    if rows.empty:
        return UnknownIds()
    flags = rows[["prediction_id"]].assign(
        stable=_unknown(rows, signature, stable), candidate=_unknown(rows, signature, candidate)
    )
    found = flags.groupby("prediction_id", sort=False).any()
    both, only = found["stable"] & found["candidate"], found["stable"] ^ found["candidate"]
    return UnknownIds(
        requests=len(found),
        to_both=int(both.sum()),
        to_candidate=int((only & found["candidate"]).sum()),
        to_stable=int((only & found["stable"]).sum()),
    )


def vocabulary_columns(signature: Signature) -> list[str]:
    """The columns of the log that ``count_unknown`` reads."""
    return [INPUT_PREFIX + spec.name for spec in signature.inputs if spec.role != "number"]


def _unknown(rows: "pd.DataFrame", signature: Signature, vocabularies: Vocabularies) -> "NDArray[np.bool_]":
    """Which rows ``[rows]`` hold a value that is in no vocabulary."""
    unknown = np.zeros(len(rows), dtype=bool)
    recommended = (rows["kind"] == "recommend").to_numpy()
    for spec in signature.inputs:
        if spec.role == "number":
            continue
        values = rows[INPUT_PREFIX + spec.name]
        present = values.notna().to_numpy()
        if spec.name != signature.key_input:
            present &= ~recommended
        unknown[present] |= vocabularies[spec.name].encode(values[present].to_numpy()) == UNKNOWN
    return unknown
