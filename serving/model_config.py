"""What Triton's clients ask about a model beyond its metadata: its configuration and its statistics.

Fields are named as in Triton's ``ModelConfig`` and ``ModelStatistics`` (protobuf and JSON share the names), so that both
transports write these structs as they are.
"""

import msgspec

from driftwheel.bundle import ONNX_GRAPH, TORCHSCRIPT_GRAPH
from driftwheel.contracts import InputSpec, OutputSpec
from serving.engine import LoadedVersion
from serving.recording import Statistics

_DATA_TYPES = {"INT64": "TYPE_INT64", "FP32": "TYPE_FP32", "BYTES": "TYPE_STRING"}
_KINDS = {"auto": "KIND_AUTO", "cpu": "KIND_CPU", "cuda": "KIND_GPU", "tensorrt": "KIND_GPU"}
_NS = 1_000_000_000


class TensorConfig(msgspec.Struct, frozen=True):
    """An input or output; its one dimension is the rows."""

    name: str
    data_type: str
    dims: list[int]


class SpecificVersions(msgspec.Struct, frozen=True):
    """Versions by number."""

    versions: list[int]


class VersionPolicy(msgspec.Struct, frozen=True):
    """Which versions are served: those that the rollout names."""

    specific: SpecificVersions


class InstanceGroup(msgspec.Struct, frozen=True):
    """Where the model runs."""

    name: str
    kind: str
    count: int


class ParameterValue(msgspec.Struct, frozen=True):
    """A setting, as text."""

    string_value: str


class ModelConfig(msgspec.Struct, frozen=True):
    """How one version is served. ``max_batch_size`` is 0 in Triton's sense: the rows are in the shape."""

    name: str
    platform: str
    backend: str
    version_policy: VersionPolicy
    max_batch_size: int
    input: list[TensorConfig]
    output: list[TensorConfig]
    instance_group: list[InstanceGroup]
    default_model_filename: str
    parameters: dict[str, ParameterValue]


class Duration(msgspec.Struct, frozen=True):
    """How often, and for how many nanoseconds in all."""

    count: int
    ns: int


class InferStatistics(msgspec.Struct, frozen=True):
    """Of requests; what is inside a run is not told apart, so the parts beside ``compute_infer`` are zero."""

    success: Duration
    fail: Duration
    queue: Duration
    compute_input: Duration
    compute_infer: Duration
    compute_output: Duration
    cache_hit: Duration
    cache_miss: Duration


class BatchStatistics(msgspec.Struct, frozen=True):
    """Runs of one size. Always empty here: ``driftwheel_run_rows`` has the sizes."""

    batch_size: int


class ModelStatistics(msgspec.Struct, frozen=True):
    """What one version has done in this process."""

    name: str
    version: str
    last_inference: int
    """Milliseconds since the epoch; 0 before the first."""
    inference_count: int
    """Rows answered."""
    execution_count: int
    """Runs of the graph."""
    inference_stats: InferStatistics
    batch_stats: list[BatchStatistics]


def model_config(loaded: LoadedVersion, versions: list[int]) -> ModelConfig:
    """The configuration of a version.

    Args:
        versions: All that are loaded of its model.
    """
    limits, signature = loaded.limits, loaded.signature
    shown = {
        "task": loaded.bundle.manifest.task,
        "max_rows_per_request": limits.max_rows_per_request,
        "max_batch_rows": limits.max_batch_rows,
        "max_queued_rows": limits.max_queued_rows,
        "max_queue_delay_ms": limits.max_queue_delay_ms,
        "intra_op_threads": limits.intra_op_threads,
    }
    return ModelConfig(
        name=loaded.name,
        platform=loaded.backend.platform,
        backend=loaded.backend.platform.partition("_")[0],
        version_policy=VersionPolicy(SpecificVersions(sorted(versions))),
        max_batch_size=0,
        input=[_tensor(spec) for spec in signature.inputs],
        output=[_tensor(spec) for spec in signature.outputs],
        instance_group=[InstanceGroup(loaded.name, _KINDS[limits.device], 1)],
        default_model_filename=TORCHSCRIPT_GRAPH if limits.backend == "torchscript" else ONNX_GRAPH,
        parameters={name: ParameterValue(str(value)) for name, value in shown.items()},
    )


def _tensor(spec: InputSpec | OutputSpec) -> TensorConfig:
    return TensorConfig(spec.name, _DATA_TYPES[spec.datatype], [-1])


def model_statistics(loaded: LoadedVersion, statistics: Statistics) -> ModelStatistics:
    """The statistics of a version, from what the recorder has counted."""
    asked = statistics.answered + statistics.failed
    nothing = Duration(0, 0)
    return ModelStatistics(
        name=loaded.name,
        version=str(loaded.version),
        last_inference=statistics.last_us // 1000,
        inference_count=statistics.answered_rows,
        execution_count=statistics.runs,
        inference_stats=InferStatistics(
            success=_duration(statistics.answered, statistics.answered_s),
            fail=_duration(statistics.failed, statistics.failed_s),
            queue=_duration(asked, statistics.queued_s),
            compute_input=nothing,
            compute_infer=_duration(statistics.runs, statistics.run_s),
            compute_output=nothing,
            cache_hit=nothing,
            cache_miss=nothing,
        ),
        batch_stats=[],
    )


def _duration(count: int, seconds: float) -> Duration:
    return Duration(count, int(seconds * _NS))
