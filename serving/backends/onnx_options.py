"""How onnxruntime is set up, and why (docs/backends.md has the measurements)."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal

import onnxruntime as ort

from driftwheel.errors import ConfigurationError
from driftwheel.serving_settings import Device

Provider = tuple[str, dict[str, str]]

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"

GRAPH_ID = "gpu_graph_id"
"""The run option that says which CUDA graph a run records or replays."""

NO_GRAPH = -1
"""The graph id of a run that is neither recorded nor replayed."""

_USUAL_ROWS = 256
"""The rows that TensorRT tunes its kernels for."""


def session_options(*, intra_op_threads: int) -> ort.SessionOptions:
    """Options for a session of ours.

    Args:
        intra_op_threads: Threads inside one run; 0 lets onnxruntime choose.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = intra_op_threads
    # One run is one chain of small operators: nothing in it could run beside the rest.
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.inter_op_num_threads = 1
    # A spinning thread takes its core from the front door, and waits longer than these runs take.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # The arena keeps large temporaries from being mapped and unmapped at every run; it goes with the session.
    options.enable_cpu_mem_arena = True
    # A memory plan is kept for every number of rows that ever came: growth without end, for no gain.
    options.enable_mem_pattern = False
    return options


def resolve_device(device: Device, available: Collection[str]) -> Literal["cpu", "cuda", "tensorrt"]:
    """Where to run, given the providers that this onnxruntime was built with.

    Raises:
        ConfigurationError: It was built without the one asked for.
    """
    if device == "auto":
        return "cuda" if CUDA in available else "cpu"
    wanted = {"cpu": CPU, "cuda": CUDA, "tensorrt": TENSORRT}[device]
    if wanted not in available:
        raise ConfigurationError(
            f"device {device!r} was asked for, but this onnxruntime has only {', '.join(sorted(available))}",
            hint='install onnxruntime-gpu in place of onnxruntime: pip install "driftwheel[gpu]"',
        )
    return device


def providers(
    device: Literal["cpu", "cuda", "tensorrt"],
    *,
    cuda_graphs: bool = False,
    engine_cache: Path | None = None,
    profile: Mapping[str, str] | None = None,
) -> list[Provider]:
    """The execution providers, best first, with their options. Half precision stays off everywhere: a version must answer
    as it did when it was proved.

    Args:
        cuda_graphs: Whether runs are recorded and replayed.
        engine_cache: Where TensorRT keeps the engines that it builds, which takes it seconds to minutes.
        profile: TensorRT's shape options, as ``tensorrt_profile`` makes them.
    """
    if device == "cpu":
        return [(CPU, {})]
    cuda = {
        "device_id": "0",
        # The other strategy doubles what it takes, and models share the device.
        "arena_extend_strategy": "kSameAsRequested",
        "use_tf32": "0",
        "enable_cuda_graph": _flag(cuda_graphs and device == "cuda"),
    }
    if device == "cuda":
        return [(CUDA, cuda), (CPU, {})]
    tensorrt = {
        "device_id": "0",
        "trt_fp16_enable": "0",
        "trt_cuda_graph_enable": _flag(cuda_graphs),
        "trt_engine_cache_enable": _flag(engine_cache is not None),
        "trt_timing_cache_enable": _flag(engine_cache is not None),
        **(
            {"trt_engine_cache_path": str(engine_cache), "trt_timing_cache_path": str(engine_cache)}
            if engine_cache
            else {}
        ),
        **(profile or {}),
    }
    return [(TENSORRT, tensorrt), (CUDA, cuda), (CPU, {})]


def tensorrt_profile(shapes: Mapping[str, list[Any]], *, max_rows: int) -> dict[str, str]:
    """The shapes that one engine must serve: without them TensorRT builds a new one whenever more rows come than before.

    Args:
        shapes: Each graph input's shape ``[rows, ...]``, of which only the rows are free.
    """

    def listed(rows: int) -> str:
        return ",".join(f"{name}:{'x'.join(map(str, (rows, *shape[1:])))}" for name, shape in shapes.items())

    return {
        "trt_profile_min_shapes": listed(1),
        "trt_profile_opt_shapes": listed(min(_USUAL_ROWS, max_rows)),
        "trt_profile_max_shapes": listed(max_rows),
    }


def _flag(value: bool) -> str:  # noqa: FBT001 (its only argument)
    return "1" if value else "0"
