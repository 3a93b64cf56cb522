"""Requests for the edges of a model's input: what parity is proved on and what a bundle is tested with at load."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from driftwheel.contracts import InputSpec, Signature
from training.data.dataset import Dataset, public_tensors, read_split

Tensors = dict[str, NDArray[Any]]

_ODD_SIZES = (7, 257)
_KINDS = ("unknown", "missing", "infinite")
_NEVER_SEEN_ID = np.iinfo(np.int64).max
_NEVER_SEEN_TEXT = "\N{SNOWMAN} never seen"


def edge_batches(dataset: Dataset) -> dict[str, Tensors]:
    """Public input tensors by the name of the case: one row, odd sizes, each kind of unknown or missing value in each
    input that can have it (one row an input), and all of them at once.
    """
    signature = dataset.signature
    real = public_tensors(signature, read_split(dataset, "train").slice(0, max(_ODD_SIZES)))
    batches = {f"{rows} rows": _take(real, rows) for rows in (1, *_ODD_SIZES)}
    for kind in _KINDS:
        strange = {spec.name: value[0] for spec in signature.inputs if (value := _strange(kind, spec))}
        if strange:
            batches[f"{kind}, each input in turn"] = _each_in_turn(_take(real, len(strange)), strange)
            batches[f"{kind}, all inputs"] = _all_at_once(_take(real, _ODD_SIZES[0]), strange)
    return batches


def golden_arrays(signature: Signature, batches: dict[str, Tensors], outputs: list[NDArray[np.float32]]) -> Tensors:
    """What ``golden.npz`` holds: all batches one after the other. Text has a fixed width, missing text is empty."""
    arrays: Tensors = {}
    for spec in signature.inputs:
        column = np.concatenate([batch[spec.name] for batch in batches.values()])
        arrays[f"input:{spec.name}"] = _fixed_width(column) if spec.datatype == "BYTES" else column
    arrays[f"output:{signature.outputs[0].name}"] = np.concatenate(outputs)
    return arrays


def _take(tensors: Tensors, rows: int) -> Tensors:
    """The first rows, repeated where there are not as many."""
    return {name: np.resize(column, rows) for name, column in tensors.items()}


def _strange(kind: str, spec: InputSpec) -> tuple[Any] | None:
    """The value of a kind for an input, in a tuple since it may be None; None where the input has no such kind."""
    if spec.role == "number":
        value = {"missing": (np.nan,), "infinite": (np.inf,)}.get(kind)
    elif spec.datatype == "INT64":
        value = {"unknown": (_NEVER_SEEN_ID,)}.get(kind)
    else:
        value = {"unknown": (_NEVER_SEEN_TEXT,), "missing": (None,)}.get(kind)
    return value


def _each_in_turn(tensors: Tensors, strange: dict[str, Any]) -> Tensors:
    changed = {name: column.copy() for name, column in tensors.items()}
    for row, (name, value) in enumerate(strange.items()):
        changed[name][row] = value
    return changed


def _all_at_once(tensors: Tensors, strange: dict[str, Any]) -> Tensors:
    changed = {name: column.copy() for name, column in tensors.items()}
    for name, value in strange.items():
        changed[name][:] = value
    return changed


def _fixed_width(column: NDArray[Any]) -> NDArray[np.str_]:
    return np.array(["" if text is None else str(text) for text in column], dtype=np.str_)
