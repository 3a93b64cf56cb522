"""Which backend runs a bundle's graphs."""

from pathlib import Path
from typing import Literal

import onnxruntime as ort
import structlog

from driftwheel.bundle import ONNX_GRAPH, TORCHSCRIPT_GRAPH, Bundle
from driftwheel.errors import BundleError
from driftwheel.serving_settings import ModelLimits
from serving.backends.base import Backend
from serving.backends.onnx import OnnxBackend
from serving.backends.onnx_bound import BoundOnnxBackend
from serving.backends.onnx_options import resolve_device

_log = structlog.get_logger()


def open_backend(bundle: Bundle, limits: ModelLimits, *, engine_cache: Path | None = None) -> Backend:
    """Load the graph that scores rows. ``auto`` is onnxruntime.

    Args:
        engine_cache: Where TensorRT keeps the engines that it builds; None: nowhere, and every load builds anew.

    Raises:
        BundleError: The bundle has no such graph, or it cannot be loaded.
        ConfigurationError: The backend or the device asked for is not there.
    """
    if limits.backend == "torchscript":
        return _torchscript(bundle, limits)
    device = resolve_device(limits.device, ort.get_available_providers())
    if device == "cpu":
        return _on_cpu(bundle, limits)
    try:
        return _on_device(bundle, limits, device, engine_cache)
    except BundleError as error:
        if limits.device != "auto":
            raise
        # onnxruntime-gpu on a machine without a device: it is seen only when a session is made.
        _log.warning("backend.no_device", model=bundle.name, reason=error.message)
        return _on_cpu(bundle, limits)


def _on_cpu(bundle: Bundle, limits: ModelLimits) -> Backend:
    return OnnxBackend(bundle.path(ONNX_GRAPH), intra_op_threads=limits.intra_op_threads)


def _on_device(
    bundle: Bundle, limits: ModelLimits, device: Literal["cuda", "tensorrt"], engine_cache: Path | None
) -> Backend:
    return BoundOnnxBackend(
        bundle.path(ONNX_GRAPH),
        device=device,
        intra_op_threads=limits.intra_op_threads,
        buckets=limits.cuda_graph_rows,
        engine_cache=engine_cache / bundle.manifest.files[ONNX_GRAPH] if engine_cache else None,
        max_rows=limits.max_batch_rows,
    )


def _torchscript(bundle: Bundle, limits: ModelLimits) -> Backend:
    from serving.backends.torchscript import TorchScriptBackend

    return TorchScriptBackend(
        bundle.path(TORCHSCRIPT_GRAPH),
        [spec.name for spec in bundle.manifest.signature.outputs],
        device="cuda" if limits.device in ("cuda", "tensorrt") else "cpu",
        intra_op_threads=limits.intra_op_threads,
    )
