"""A loaded version: its graphs, warmed up and proved against its golden requests, ready to answer."""

import time
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from driftwheel.bundle import ITEMS, ONNX_GRAPH, RECOMMEND_GRAPH, SEEN, Bundle
from driftwheel.errors import BundleError
from driftwheel.preprocessing import Tensors, encode
from driftwheel.settings import ServingSettings
from driftwheel.vocabulary import Vocabulary
from serving.backends.base import Backend
from serving.backends.onnx import OnnxBackend
from serving.batching import Batcher, RunCost
from serving.recommend import Catalogue, Recommender

GOLDEN_TOLERANCE = 1e-4
"""How far an answer at load may be from the recorded one: runtimes and processors differ in the last bits."""

_WARM_UP_ROWS = (1, 256)
_WARM_UP_RUNS = 8


@dataclass(frozen=True, slots=True)
class LoadedVersion:
    """One version that can answer."""

    bundle: Bundle
    vocabularies: dict[str, Vocabulary]
    backend: Backend
    batcher: Batcher
    recommender: Recommender | None

    @property
    def name(self) -> str:
        return self.bundle.manifest.name

    @property
    def version(self) -> int:
        return self.bundle.manifest.version

    @property
    def label(self) -> str:
        """For people: ``mf version 3``."""
        return f"{self.name} version {self.version}"


def load_version(
    bundle: Bundle, settings: ServingSettings, executor: Executor, *, on_run: Callable[[int], None]
) -> LoadedVersion:
    """Load a checked bundle's graphs, warm them up, and prove them against the golden requests. Takes a while: call it
    off the event loop.

    Raises:
        BundleError: A graph cannot be loaded, or answers otherwise than when it was exported.
    """
    vocabularies = bundle.vocabularies()
    backend = OnnxBackend(bundle.path(ONNX_GRAPH), intra_op_threads=settings.intra_op_threads)
    inputs, outputs = golden_requests(bundle)
    _prove(bundle, backend, vocabularies, inputs, outputs)
    batcher = Batcher(
        backend,
        cost=measure_cost(bundle, backend, vocabularies, inputs),
        inline_us=settings.inline_run_us,
        max_batch_rows=settings.max_batch_rows,
        max_queued_rows=settings.max_queued_rows,
        executor=executor,
        on_run=on_run,
    )
    return LoadedVersion(bundle, vocabularies, backend, batcher, _recommender(bundle, vocabularies, settings))


def golden_requests(bundle: Bundle) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]]:
    """The recorded inputs and outputs, by tensor name."""
    arrays = bundle.golden()
    inputs = {key.removeprefix("input:"): values for key, values in arrays.items() if key.startswith("input:")}
    outputs = {key.removeprefix("output:"): values for key, values in arrays.items() if key.startswith("output:")}
    if set(inputs) != {spec.name for spec in bundle.manifest.signature.inputs} or not outputs:
        raise BundleError(f"bundle {bundle.folder}: the golden requests do not fit the signature")
    return inputs, outputs


def _prove(
    bundle: Bundle, backend: Backend, vocabularies: dict[str, Vocabulary], inputs: Tensors, outputs: Tensors
) -> None:
    answers = backend.run(encode(bundle.manifest.signature, vocabularies, inputs))
    for name, expected in outputs.items():
        if name not in answers:
            raise BundleError(f"bundle {bundle.folder}: the graph has no output {name!r}")
        if not np.allclose(answers[name], expected, rtol=0, atol=GOLDEN_TOLERANCE, equal_nan=False):
            raise BundleError(f"bundle {bundle.folder}: output {name!r} differs from its golden answers")


def measure_cost(bundle: Bundle, backend: Backend, vocabularies: dict[str, Vocabulary], inputs: Tensors) -> RunCost:
    """Run golden rows in two sizes, and draw a line through the best time of each."""
    best_us: list[float] = []
    for rows in _WARM_UP_ROWS:
        resized = {name: np.resize(values, rows) for name, values in inputs.items()}
        feed = encode(bundle.manifest.signature, vocabularies, resized)
        times: list[float] = []
        for _ in range(_WARM_UP_RUNS):
            start = time.perf_counter()
            backend.run(feed)
            times.append((time.perf_counter() - start) * 1e6)
        best_us.append(min(times))
    small, large = _WARM_UP_ROWS
    row_us = max(0.0, (best_us[1] - best_us[0]) / (large - small))
    return RunCost(fixed_us=best_us[0], row_us=row_us)


def _recommender(bundle: Bundle, vocabularies: dict[str, Vocabulary], settings: ServingSettings) -> Recommender | None:
    if RECOMMEND_GRAPH not in bundle.manifest.files:
        return None
    backend = OnnxBackend(bundle.path(RECOMMEND_GRAPH), intra_op_threads=settings.intra_op_threads)
    catalogue = Catalogue.read(bundle.path(ITEMS), bundle.path(SEEN))
    return Recommender(backend, catalogue, vocabularies["user_id"], vocabularies["item_id"])
