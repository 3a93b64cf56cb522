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
from serving.recommendation.recommender import Recommender
from training.models.graph import GraphModel
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


def prove_finished(model: GraphModel, output: str) -> tuple[ParityCase, ...]:
    """Compare a graph with what the model that it was made of answered when it was trained.

    Raises:
        ExportError: It differs by more than ``TOLERANCE``, has another output, or has nothing to be compared with.
    """
    if not model.evidence or model.output != output:
        raise ExportError(f"the graph gives {model.output!r}, not {output!r}, or came without evidence")
    return tuple(
        _case("onnx", case, arrays["answer"], model.answers({name: arrays[name] for name in model.inputs}))
        for case, arrays in model.evidence.items()
    )


def prove_recommend(
    model: MatrixFactorization, recommender: Recommender, users: NDArray[np.int64]
) -> tuple[ParityCase, ...]:
    """Compare the search that serving runs with a sort of the eager model in numpy: the scores at each rank, and that
    each item's score is the model's own, that no seen or excluded item comes, and none twice.

    Args:
        recommender: Reads the tables that were written.
        users: Indices to ask for.

    Raises:
        ExportError: It differs, or recommends what it must not.
    """
    none = np.empty(0, dtype=np.int64)
    everything = np.arange(1, model.shape.items, dtype=np.int64)
    questions = (
        _Question("1 user, 1 item", users[:1], none, 1),
        _Question("all users, k 10", users, none, 10),
        _Question("half of the items excluded, k 100", users, everything[::2], 100),
        _Question("everything excluded", users[:1], everything, 5),
        _Question("more than there is", users[:1], none, model.shape.items + 10),
    )
    return tuple(_recommend_case(recommender, model, question) for question in questions)


@dataclass(frozen=True, slots=True)
class _Question:
    case: str
    users: NDArray[np.int64]
    exclude: NDArray[np.int64]
    k: int


@torch.no_grad()
def _recommend_case(recommender: Recommender, model: MatrixFactorization, asked: _Question) -> ParityCase:
    worst = 0.0
    for user in asked.users.tolist():
        excluded = np.concatenate([asked.exclude, recommender.seen_by(user) + 1])
        best, expected = recommend_in_numpy(model, user, excluded, asked.k)
        rows, actual = recommender.ranked(user, asked.exclude - 1, asked.k)
        if len(rows) != len(best):
            raise ExportError(f"recommend runs out of items elsewhere than it should on {asked.case!r}")
        if np.isin(rows + 1, excluded).any() or len(np.unique(rows)) != len(rows):
            raise ExportError(f"recommend returns an excluded item, or one twice, on {asked.case!r}")
        own = model(torch.full((len(rows),), user), torch.from_numpy(rows + 1)).numpy()
        for wanted in (expected, own):
            worst = max(worst, _case("recommend", asked.case, wanted, actual).max_abs_difference)
    return ParityCase(format="recommend", case=asked.case, rows=len(asked.users), max_abs_difference=worst)


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
