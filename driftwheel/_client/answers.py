"""What the client's calls answer with."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class ClientAnswer:
    """What a model gave, and what answered."""

    version: int
    arm: str
    """The part of the split that answered: stable, candidate, or pinned where the caller named the version."""
    prediction_id: str
    """What feedback names."""
    outputs: dict[str, NDArray[Any]]
    """One array ``[rows]`` for each output."""


@dataclass(frozen=True, slots=True)
class TensorMetadata:
    """One input or output of a model."""

    name: str
    datatype: str
    """INT64, FP32 or BYTES."""
    shape: tuple[int, ...]
    """-1 for any number of rows."""


@dataclass(frozen=True, slots=True)
class ModelMetadata:
    """What a model takes and gives."""

    name: str
    versions: tuple[int, ...]
    """Those that can answer."""
    platform: str
    inputs: tuple[TensorMetadata, ...]
    outputs: tuple[TensorMetadata, ...]


@dataclass(frozen=True, slots=True)
class ServerMetadata:
    """Which server it is."""

    name: str
    version: str
    extensions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class VersionState:
    """What the server says of one version."""

    name: str
    version: int
    state: str
    """READY, LOADING or UNAVAILABLE."""
    reason: str
    """Why it is not READY."""


@dataclass(frozen=True, slots=True)
class RecommendedItem:
    """One item of a recommendation."""

    row: int
    """What feedback names."""
    item_id: int | str
    title: str | None
    score: float


@dataclass(frozen=True, slots=True)
class Recommendation:
    """The best items for a user, and what answered."""

    model: str
    version: int
    arm: str
    prediction_id: str
    user_id: int | str
    source: str
    """How they were found: ``factors`` (training knew the user), ``fold_in`` (from ratings in the request), or ``popularity``
    (nothing is known of the user)."""
    items: tuple[RecommendedItem, ...]


@dataclass(frozen=True, slots=True)
class ChurnAnswer:
    """How likely each customer is to leave, and what answered."""

    model: str
    version: int
    arm: str
    prediction_id: str
    probabilities: NDArray[np.float32]
    """``[customers]``, in their order."""
