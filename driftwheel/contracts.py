"""The types that training writes and serving reads: what a model takes, what it gives, where it came from."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

Task = Literal["rating", "churn"]
"""``rating``: user and item to score, top-K over all items. ``churn``: customer features to a probability."""

Datatype = Literal["INT64", "FP32", "BYTES"]
"""A subset of the Open Inference Protocol's datatypes. BYTES elements are UTF-8 text."""

Role = Literal["id", "category", "number"]
"""``id`` and ``category`` are looked up in a vocabulary (unknown and missing become index 0).
``number`` goes in as it is (NaN is missing, and the graph handles it)."""


class Arm(StrEnum):
    """Which part of the split answered a request."""

    STABLE = "stable"
    CONTROL = "control"
    """The slice of stable, as large as the candidate's, that the candidate is compared with."""
    CANDIDATE = "candidate"
    PINNED = "pinned"
    """The caller asked for the version; never evidence for or against it."""
    SHADOW = "shadow"
    """The candidate's answer to a copy of a request of control's, which nobody gets to see."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InputSpec:
    """One input tensor of the public signature, and where it goes in the graph.

    The public shape is always ``[rows]``. Rows of one request share their length over all inputs.
    """

    name: str
    datatype: Datatype
    role: Role
    graph_input: str
    """The graph's input that this column feeds."""
    column: int | None = None
    """The column of a ``[rows, columns]`` graph input, or None where the graph input is ``[rows]``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputSpec:
    """One output tensor, float32 ``[rows]``, with the closed range that its values cannot leave."""

    name: str
    datatype: Datatype = "FP32"
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """What a model takes and gives.

    ``key_input`` names the input whose first value routes a request in a canary split (None: the caller sends a key, or
    the request id is used). ``label`` names what feedback about an answer means, with the range of a valid label.
    """

    inputs: tuple[InputSpec, ...]
    outputs: tuple[OutputSpec, ...]
    key_input: str | None = None
    label: str
    label_low: float
    label_high: float


def incompatibility(stable: Signature, candidate: Signature) -> str | None:
    """Why a candidate cannot answer the requests that the stable version gets, in words; None where it can."""
    before = {spec.name: spec.datatype for spec in stable.inputs}
    after = {spec.name: spec.datatype for spec in candidate.inputs}
    if before != after:
        changed = sorted({*before.items()} ^ {*after.items()})
        return f"its inputs differ: {', '.join(f'{name} ({datatype})' for name, datatype in changed)}"
    if [spec.name for spec in stable.outputs] != [spec.name for spec in candidate.outputs]:
        return "its outputs differ"
    if (stable.key_input, stable.label) != (candidate.key_input, candidate.label):
        return "its routing key or label differs"
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class ParityCase:
    """How far one exported graph was from eager PyTorch on one edge batch."""

    format: Literal["onnx", "torchscript", "recommend", "recommend-onnx"]
    """``recommend`` is the search that serving runs; bundles from before it have ``recommend-onnx``, a graph that did it."""
    case: str
    rows: int
    max_abs_difference: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Preference:
    """How users are folded into a factorization of what users choose: by the weighted ridge that its own users came from.

    What a user rated is to score 1, with a weight from 0 at ``liked_from`` to 1 at ``span`` above it, halved for each
    ``half_life`` liked items that came later (0: never); all items are to score 0, with ``unobserved_weight``. The penalty is
    ``damping (rated + unobserved_weight items) |vector|^2``. The vector found is multiplied by ``scale``, which makes its
    products differences in ratings; the bias makes the products with what the user rated come out at the user's mean, damped.
    """

    unobserved_weight: float
    damping: float
    liked_from: float
    span: float
    half_life: float
    scale: float
    bias_damping: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FactorParameters:
    """What it takes besides the factors to recommend: ``score = mean + user bias + item bias + user . item``, clipped.

    A user unknown to training is folded in by the ridge that its own factors would have come from. That is, over the user's
    ratings, ``sum of squared errors + vector_damping |vector|^2 + bias_damping bias^2``; or, where the bundle has a
    ``factors/prior.npy`` of covariance C, ``sum of squared errors + (vector, bias) C^-1 (vector, bias)'``; or what
    ``preference`` says.
    """

    mean: float
    low: float
    """The range that scores are clipped to, and that ratings must be in."""
    high: float
    vector_damping: float = 0.0
    bias_damping: float = 0.0
    preference: Preference | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRecord:
    """Where a version came from."""

    run_id: str
    """The MLflow run."""
    data_fingerprint: str
    """SHA-256 over the prepared rows, their order included."""
    data_until: str | None
    """The newest event that training saw, ISO 8601, None for data without time."""
    rows: int
    """Rows of the training split."""
    code_revision: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The content of ``bundle.json``. File names are relative to the bundle's folder.

    ``files`` maps every other file of the bundle to its SHA-256. ``vocabularies`` maps the name of an ``id`` or
    ``category`` input to its vocabulary file.
    """

    format: Literal[1] = 1
    name: str
    version: int
    task: Task
    created_at: str
    signature: Signature
    vocabularies: dict[str, str] = field(default_factory=dict[str, str])
    metrics: dict[str, float] = field(default_factory=dict[str, float])
    training: TrainingRecord
    parity: tuple[ParityCase, ...]
    files: dict[str, str] = field(default_factory=dict[str, str])
    manifest_sha256: str = ""
    """SHA-256 of this manifest's compact JSON with this field left empty."""
