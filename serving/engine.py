"""A loaded version: its graphs, warmed up and proved against its golden requests, ready to answer."""

import time
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from driftwheel.bundle import Bundle
from driftwheel.contracts import Signature
from driftwheel.errors import BundleError
from driftwheel.preprocessing import Tensors, encode
from driftwheel.serving_settings import ModelLimits, ServingSettings
from driftwheel.vocabulary import Vocabulary
from serving.backends.base import Backend, RemoteBackend
from serving.backends.choice import open_backend
from serving.batching import Batcher, RunCost
from serving.codec import Columns
from serving.recommendation.recommender import LoadedRecommender, load_recommender
from serving.scoring import Outputs, Scorer

GOLDEN_TOLERANCE = 1e-4
"""How far an answer at load may be from the recorded one: runtimes and processors differ in the last bits."""

_REMOTE_RUNS = 2
"""Runs of one version that are under way elsewhere: one is computed while the other one travels. Measured with TorchServe on
two cores, that gives half as many requests a second again to few callers, and to large requests; four make smaller batches,
and gave small requests a third less.
"""

_WARM_UP_ROWS = (1, 256)
_WARM_UP_RUNS = 8


ScoringJob = tuple[Columns, int]
"""A request's columns, and its rows."""


@lru_cache(maxsize=1024)
def _interned(signature: Signature) -> Signature:
    """One object for equal signatures, so that a request compares those of two versions by identity."""
    return signature


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class LoadedVersion:
    """One version that can answer."""

    bundle: Bundle
    vocabularies: dict[str, Vocabulary]
    backend: Backend
    batcher: Batcher[ScoringJob, Outputs]
    recommender: LoadedRecommender | None
    limits: ModelLimits
    # Looked at for every request, so not looked up in the manifest each time.
    name: str = field(init=False)
    version: int = field(init=False)
    signature: Signature = field(init=False)
    output_names: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        manifest = self.bundle.manifest
        object.__setattr__(self, "name", manifest.name)
        object.__setattr__(self, "version", manifest.version)
        object.__setattr__(self, "signature", _interned(manifest.signature))
        object.__setattr__(self, "output_names", tuple(spec.name for spec in manifest.signature.outputs))

    @property
    def label(self) -> str:
        """For people: ``mf version 3``."""
        return f"{self.name} version {self.version}"

    @property
    def down(self) -> str | None:
        """Why it cannot answer at the moment; None where nothing is known against it."""
        return self.backend.down if isinstance(self.backend, RemoteBackend) else None


def load_version(
    bundle: Bundle,
    settings: ServingSettings,
    executor: Executor,
    *,
    on_run: Callable[[int, float], None],
    engine_cache: Path | None = None,
    torchserve: Path | None = None,
) -> LoadedVersion:
    """Load a checked bundle's graphs, warm them up, and prove them against the golden requests. Takes a while: call it
    off the event loop.

    Args:
        on_run: Called with the rows and the seconds of each run.
        engine_cache: Where TensorRT keeps the engines that it builds.
        torchserve: The folder of the TorchServe that runs what is to run on TorchServe.

    Raises:
        BundleError: A graph cannot be loaded, or answers otherwise than when it was exported.
        UnavailableError: What is to run it elsewhere does not answer.
    """
    limits = settings.limits_for(bundle.name, bundle.version)
    backend = open_backend(bundle, limits, engine_cache=engine_cache, torchserve=torchserve)
    try:
        return _load(bundle, backend, settings, limits, executor, on_run)
    except Exception:
        backend.close()  # it may have a thread and a connection, and will be tried again every few seconds
        raise


def _load(
    bundle: Bundle,
    backend: Backend,
    settings: ServingSettings,
    limits: ModelLimits,
    executor: Executor,
    on_run: Callable[[int, float], None],
) -> LoadedVersion:
    vocabularies, signature = bundle.vocabularies(), bundle.manifest.signature
    remote = isinstance(backend, RemoteBackend)
    inputs, outputs = golden_requests(bundle)
    _prove(bundle, backend, vocabularies, inputs, outputs)
    scorer = Scorer(backend, signature, vocabularies, label=f"{bundle.name} version {bundle.version}")
    batcher = Batcher(
        scorer,
        cost=measure_cost(scorer, inputs),
        # What only waits must not hold up the event loop, however short; nor a thread that other models compute on.
        inline_us=0 if remote else settings.inline_run_us,
        max_batch_rows=limits.max_batch_rows,
        max_queued_rows=limits.max_queued_rows,
        max_delay_s=limits.max_queue_delay_ms / 1000,
        executor=ThreadPoolExecutor(_REMOTE_RUNS, thread_name_prefix="remote") if remote else executor,
        max_runs=_REMOTE_RUNS if remote else 1,
        on_run=on_run,
    )
    recommender = load_recommender(bundle, vocabularies, settings, limits, executor, on_run=on_run)
    return LoadedVersion(bundle, vocabularies, backend, batcher, recommender, limits)


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
    feed = encode(bundle.manifest.signature, vocabularies, inputs)
    answers = backend.run(feed)
    for name, expected in outputs.items():
        if name not in answers:
            raise BundleError(f"bundle {bundle.folder}: the graph has no output {name!r}")
        if not np.allclose(answers[name], expected, rtol=0, atol=GOLDEN_TOLERANCE, equal_nan=False):
            raise BundleError(f"bundle {bundle.folder}: output {name!r} differs from its golden answers")
    if isinstance(backend, RemoteBackend):
        backend.remember(feed, answers)


def measure_cost(scorer: Scorer, inputs: Tensors) -> RunCost:
    """Run golden rows in two sizes, and draw a line through the best time of each."""
    best_us: list[float] = []
    for rows in _WARM_UP_ROWS:
        resized = {name: np.resize(values, rows) for name, values in inputs.items()}
        times: list[float] = []
        for _ in range(_WARM_UP_RUNS):
            start = time.perf_counter()
            scorer([(resized, rows)])
            times.append((time.perf_counter() - start) * 1e6)
        best_us.append(min(times))
    small, large = _WARM_UP_ROWS
    row_us = max(0.0, (best_us[1] - best_us[0]) / (large - small))
    return RunCost(fixed_us=best_us[0], row_us=row_us)
