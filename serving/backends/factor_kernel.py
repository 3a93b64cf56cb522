"""The C function of ``factor_kernel.c``, where it was built: pip builds it with the package if there is a C compiler."""

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec

_MODULE = "serving.backends._factor_kernel"

_LONG_PAIRS = 8192
"""Some 70 us. A shorter run keeps the interpreter's lock: letting go of it and winning it back costs more than the run."""


class FactorTables(ctypes.Structure):
    """``factors`` in the C file, which describes the fields."""

    _fields_ = (
        ("users", ctypes.c_void_p),
        ("items", ctypes.c_void_p),
        ("nobody", ctypes.c_void_p),
        ("user_count", ctypes.c_int64),
        ("item_count", ctypes.c_int64),
        ("width", ctypes.c_int64),
        ("mean", ctypes.c_float),
        ("low", ctypes.c_float),
        ("high", ctypes.c_float),
    )


@dataclass(frozen=True, slots=True)
class FactorKernel:
    """``score_pairs``, once with the interpreter's lock held and once without."""

    _short: Callable[..., int]
    _long: Callable[..., int]

    def score(self, tables: FactorTables, user_index: int, item_index: int, pairs: int, scores: int) -> int:
        """Score pairs.

        Args:
            user_index, item_index: Addresses of int64 ``[pairs]``.
            scores: The address of float32 ``[pairs]``, which are written.

        Returns:
            -1; or the first pair with an index outside its table.
        """
        function = self._short if pairs < _LONG_PAIRS else self._long
        return function(tables, user_index, item_index, pairs, scores)


@lru_cache(maxsize=1)
def factor_kernel() -> FactorKernel | None:
    """The kernel; None where it was not built."""
    spec = find_spec(_MODULE)
    if spec is None or spec.origin is None:
        return None
    functions = [library(spec.origin).score_pairs for library in (ctypes.PyDLL, ctypes.CDLL)]
    for function in functions:
        pointer = ctypes.c_void_p
        function.argtypes = [ctypes.POINTER(FactorTables), pointer, pointer, ctypes.c_int64, pointer]
        function.restype = ctypes.c_int64
    return FactorKernel(*functions)
