"""A factorization scored from its factors, without a graph.

The ONNX graph stays the contract: ``proved`` compares with it at load, and what differs is not served. What this saves is in
ADR 11.
"""

from typing import Any

import numpy as np
import structlog
from numpy.typing import NDArray

from driftwheel.bundle import FACTOR_PARAMETERS, Bundle
from driftwheel.contracts import InputSpec, Signature
from driftwheel.errors import BundleError, ConfigurationError, ModelFaultError
from serving.backends.base import Backend, Feed
from serving.backends.factor_kernel import FactorKernel, FactorTables, factor_kernel
from serving.recommendation.catalogue import Factors

_log = structlog.get_logger()

PLATFORM = "driftwheel_factors"

_COMPARED_PAIRS = 4096
TOLERANCE = 1e-5
"""The most that a score may differ from the graph's, absolutely: sums of 32-bit floats, in another order."""


class FactorsBackend:
    """``clip(mean + biases + <user, item>)``, from tables mapped into memory: all workers, and recommending, share them.

    Args:
        factors: The tables.
        users: The signature's input that is a user.
        items: The one that is an item.
        output: The name of the score.

    Raises:
        ConfigurationError: The kernel was not built.
    """

    platform = PLATFORM

    def __init__(self, factors: Factors, *, users: InputSpec, items: InputSpec, output: str) -> None:
        self._kernel = required_kernel()
        self._user_input, self._item_input, self._output = users.graph_input, items.graph_input, output
        parameters, width = factors.parameters, factors.users.shape[1]
        nobody = np.zeros(width, dtype=np.float32)
        self._arrays: tuple[NDArray[np.float32], ...] | None = (factors.users, factors.items, nobody)
        self._tables = FactorTables(
            *(table.ctypes.data for table in self._arrays),
            user_count=len(factors.users),
            item_count=len(factors.items),
            width=width,
            mean=parameters.mean,
            low=parameters.low,
            high=parameters.high,
        )

    def run(self, feed: Feed) -> dict[str, NDArray[Any]]:
        """See ``Backend.run``."""
        if (arrays := self._arrays) is None:
            raise ModelFaultError("the model has been unloaded")
        if len(feed) != 2 or self._user_input not in feed or self._item_input not in feed:
            raise ModelFaultError(
                f"the model failed: it takes {self._user_input} and {self._item_input}, got {', '.join(sorted(feed))}"
            )
        users, items = _indices(self._user_input, feed), _indices(self._item_input, feed)
        if (pairs := len(users)) != len(items):
            raise ModelFaultError(f"the model failed: {pairs} users and {len(items)} items are no pairs")
        scores = np.empty(pairs, dtype=np.float32)
        wrong = self._kernel.score(self._tables, users.ctypes.data, items.ctypes.data, pairs, scores.ctypes.data)
        del arrays  # until here another thread's ``close`` must not unmap them
        if wrong >= 0:
            raise ModelFaultError(
                f"the model failed: pair {wrong} has an index outside the tables: {users[wrong]}, {items[wrong]}"
            )
        return {self._output: scores}

    def some_pairs(self) -> dict[str, NDArray[np.int64]]:
        """Pairs of all kinds to compare with a graph: known ones by chance, the unknown on either side and on both."""
        chance = np.random.default_rng(0)
        feed = {
            self._user_input: chance.integers(0, self._tables.user_count, _COMPARED_PAIRS),
            self._item_input: chance.integers(0, self._tables.item_count + 1, _COMPARED_PAIRS),
        }
        feed[self._user_input][:8] = 0
        feed[self._item_input][4:12] = 0
        return feed

    def close(self) -> None:
        """See ``Backend.close``."""
        self._arrays = None


def open_factors(bundle: Bundle) -> FactorsBackend:
    """A bundle's factors.

    Raises:
        BundleError: It has none, or they are damaged, or its signature is not that of pairs.
        ConfigurationError: The kernel was not built.
    """
    pair = _pair(bundle.manifest.signature)
    if pair is None or FACTOR_PARAMETERS not in bundle.manifest.files:
        raise BundleError(f"bundle {bundle.folder} is not a factorization that can be scored from its factors")
    users, items = pair
    factors = Factors.read(bundle.folder)
    return FactorsBackend(factors, users=users, items=items, output=bundle.manifest.signature.outputs[0].name)


def proved(bundle: Bundle, graph: Backend) -> FactorsBackend | None:
    """A bundle's factors, if they can be scored here and say what its graph says; else None, and why in the log.

    Raises:
        BundleError: They are damaged.
    """
    has_factors = _pair(bundle.manifest.signature) is not None and FACTOR_PARAMETERS in bundle.manifest.files
    if not has_factors or factor_kernel() is None:
        return None
    backend = open_factors(bundle)
    feed = backend.some_pairs()
    output = bundle.manifest.signature.outputs[0].name
    try:
        largest = float(np.abs(backend.run(feed)[output] - graph.run(feed)[output]).max())
    except ModelFaultError as error:
        reason = error.message  # tables of other sizes than the graph's
    else:
        if largest <= TOLERANCE:  # not so where one of the two is not a number
            return backend
        reason = f"they differ by {largest:g}"
    _log.warning("backend.factors_differ", model=bundle.name, version=bundle.version, reason=reason)
    return None


def required_kernel() -> FactorKernel:
    """The kernel.

    Raises:
        ConfigurationError: It was not built.
    """
    if (kernel := factor_kernel()) is None:
        raise ConfigurationError(
            "scoring from factors needs the C kernel, which was not built with this installation",
            hint="install a C compiler (Debian: gcc libc6-dev) and driftwheel again, or set backend to auto or onnx",
        )
    return kernel


def _pair(signature: Signature) -> tuple[InputSpec, InputSpec] | None:
    """The user and the item, where a signature is of pairs of them and has one output."""
    users = [spec for spec in signature.inputs if spec.name == signature.key_input]
    items = [spec for spec in signature.inputs if spec.name != signature.key_input]
    alone = all(spec.role == "id" and spec.column is None for spec in signature.inputs)
    return (users[0], items[0]) if alone and len(users) == len(items) == len(signature.outputs) == 1 else None


def _indices(name: str, feed: Feed) -> NDArray[np.int64]:
    indices = feed[name]
    if indices.dtype != np.int64 or indices.ndim != 1:
        raise ModelFaultError(
            f"the model failed: {name} must be int64 [rows], got {indices.dtype} {list(indices.shape)}"
        )
    return np.ascontiguousarray(indices)
