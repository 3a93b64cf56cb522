"""Which backend runs a bundle's graphs."""

from pathlib import Path
from typing import Literal

import onnxruntime as ort
import structlog

from driftwheel.bundle import ONNX_GRAPH, TORCHSCRIPT_GRAPH, Bundle
from driftwheel.errors import BundleError, ConfigurationError, UnavailableError
from driftwheel.serving_settings import ModelLimits
from serving.backends.base import Backend
from serving.backends.factors import open_factors, proved
from serving.backends.onnx import OnnxBackend
from serving.backends.onnx_bound import BoundOnnxBackend
from serving.backends.onnx_options import resolve_device

_log = structlog.get_logger()


def open_backend(
    bundle: Bundle,
    limits: ModelLimits,
    *,
    engine_cache: Path | None = None,
    torchserve: Path | None = None,
) -> Backend:
    """Load what scores rows. ``auto`` is the factors of a factorization where they say what its graph says and it is to run
    on the CPU, and onnxruntime elsewhere.

    Args:
        engine_cache: Where TensorRT keeps the engines that it builds; None: nowhere, and every load builds anew.
        torchserve: The folder of the TorchServe that runs what is to run on TorchServe.

    Raises:
        BundleError: The bundle has no such graph, or it cannot be loaded.
        ConfigurationError: The backend or the device asked for is not there.
        UnavailableError: TorchServe is to run it, and does not answer.
    """
    if limits.backend == "torchscript":
        return _torchscript(bundle, limits)
    if limits.backend == "factors":
        return open_factors(bundle)
    if limits.backend == "torchserve":
        return _torchserve(bundle, limits, torchserve)
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
    graph = OnnxBackend(bundle.path(ONNX_GRAPH), intra_op_threads=limits.intra_op_threads)
    factors = proved(bundle, graph) if limits.backend == "auto" else None
    if factors is None:
        return graph
    graph.close()
    return factors


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


def _torchserve(bundle: Bundle, limits: ModelLimits, folder: Path | None) -> Backend:
    from serving.backends.torchserve import TorchServeBackend
    from serving.backends.torchserve_link import TorchServeLink, located_in

    if folder is None:
        raise ConfigurationError(f"{bundle.name} is to run on TorchServe, but nothing tells where that is")
    backend = TorchServeBackend(
        TorchServeLink(located_in(folder)),
        name=bundle.name,
        version=bundle.version,
        signature=bundle.manifest.signature,
        timeout_s=limits.torchserve_timeout_s,
    )
    if (down := backend.down) is not None:
        backend.close()
        raise UnavailableError(f"{bundle.name} version {bundle.version} is to run on TorchServe: {down}")
    return backend
