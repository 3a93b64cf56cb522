"""Proof that exported graphs answer as the eager model does."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from driftwheel.contracts import ParityCase
from driftwheel.errors import ExportError
from exporters.golden import Tensors
from exporters.recommend import recommend_in_numpy
from exporters.torchscript import read_torchscript
from training.models.matrix_factorization import MatrixFactorization

TOLERANCE = 1e-5
"""The most that a score may differ, absolutely."""


@dataclass(frozen=True, slots=True)
class Proof:
    """What was compared, and the eager answers float32 ``[rows]`` of each case."""

    cases: tuple[ParityCase, ...]
    answers: list[NDArray[np.float32]]


@torch.no_grad()
def prove_graphs(
    graph: torch.nn.Module,
    *,
    onnx_path: Path,
    torchscript_path: Path,
    inputs: list[str],
    output: str,
    feeds: dict[str, Tensors],
) -> Proof:
    """Compare both exported graphs with the eager one on each case's graph inputs.

    Args:
        inputs: The order of the graph's arguments.

    Raises:
        ExportError: An exported graph differs by more than ``TOLERANCE``, or the model answers with something that is
            not a number.
    """
    session = _session(onnx_path)
    script = read_torchscript(torchscript_path)
    cases: list[ParityCase] = []
    answers: list[NDArray[np.float32]] = []
    for case, feed in feeds.items():
        arguments = [torch.from_numpy(feed[name]) for name in inputs]
        expected = graph(*arguments).numpy()
        if not np.isfinite(expected).all():
            raise ExportError(f"the model itself answers {case!r} with something that is not a number")
        cases.append(_case("onnx", case, expected, session.run([output], feed)[0]))
        cases.append(_case("torchscript", case, expected, script(*arguments).numpy()))
        answers.append(expected)
    return Proof(tuple(cases), answers)


def prove_recommend(
    model: MatrixFactorization, path: Path, users: NDArray[np.int64], seen: list[NDArray[np.int64]]
) -> tuple[ParityCase, ...]:
    """Compare the top-K graph with a sort in numpy: scores at each rank, and that no excluded item comes back.

    Args:
        users: Indices to ask for, the unknown among them.
        seen: For each of them, the item indices not to recommend.

    Raises:
        ExportError: It differs, or recommends what it must not.
    """
    session = _session(path)
    everything = np.arange(model.shape.items, dtype=np.int64)[None, :]
    exclude = np.zeros((len(users), max(map(len, seen))), dtype=np.int64)
    for row, items in enumerate(seen):
        exclude[row, : len(items)] = items
    questions = (
        _Question("1 user, 1 item", users[:1], exclude[:1], 1),
        _Question("seen items excluded, k 10", users, exclude, 10),
        _Question("nothing excluded, k 100", users, exclude[:, :0], 100),
        _Question("everything excluded", users[:1], everything, 5),
        _Question("more than there is", users[:1], exclude[:1], model.shape.items + 10),
    )
    return tuple(_recommend_case(session, model, question) for question in questions)


@dataclass(frozen=True, slots=True)
class _Question:
    case: str
    users: NDArray[np.int64]
    exclude: NDArray[np.int64]
    k: int


def _recommend_case(session: Any, model: MatrixFactorization, asked: _Question) -> ParityCase:
    feed = {"user_index": asked.users, "exclude_index": asked.exclude, "k": np.array([asked.k], dtype=np.int64)}
    index, score = session.run(["item_index", "score"], feed)
    expected = recommend_in_numpy(model, asked.users, asked.exclude, asked.k)
    if (np.isnan(expected) != (index == 0)).any() or (np.isnan(score) != (index == 0)).any():
        raise ExportError(f"recommend-onnx runs out of items elsewhere than it should on {asked.case!r}")
    for row, excluded in zip(index, asked.exclude, strict=True):
        recommended = row[row > 0]
        if np.isin(recommended, excluded).any() or len(np.unique(recommended)) != len(recommended):
            raise ExportError(f"recommend-onnx recommends an excluded item, or one twice, on {asked.case!r}")
    return _case("recommend-onnx", asked.case, np.nan_to_num(expected), np.nan_to_num(score))


def _case(kind: Any, case: str, expected: NDArray[np.float32], actual: NDArray[np.float32]) -> ParityCase:
    if actual.shape != expected.shape:
        raise ExportError(f"{kind} answers {case!r} with shape {actual.shape}, the model with {expected.shape}")
    difference = float(np.abs(actual.astype(np.float64) - expected).max(initial=0.0))
    if not difference <= TOLERANCE:  # NaN is refused too
        raise ExportError(
            f"{kind} differs from the model by {difference:g} on {case!r}; at most {TOLERANCE:g} is allowed"
        )
    return ParityCase(format=kind, case=case, rows=len(expected), max_abs_difference=difference)


def _session(path: Path) -> Any:
    import onnxruntime as ort

    return ort.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
