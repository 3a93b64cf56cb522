"""Who takes part, and the model that all are given."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from benchmarks.models import make_factor_bundle
from benchmarks.rivals.base import Rival, Workplace
from benchmarks.rivals.driftwheel import Driftwheel
from benchmarks.rivals.echo import Echo
from benchmarks.rivals.python_servers import PythonServer
from benchmarks.rivals.torchserve import TorchServe
from benchmarks.tools.messages import pairs
from benchmarks.tools.report import console
from driftwheel.bundle import ONNX_GRAPH, bundle_folder
from driftwheel.serving_settings import ServingSettings

FULL, NO_LOG, BARE, CEILING, PLAIN, TORCHSERVE = (
    "Driftwheel",
    "Driftwheel, no log",
    "Driftwheel, no log or metrics",
    "echo (ceiling)",
    "grpc.aio",
    "TorchServe",
)

VERSIONS = (1, 2)
"""Of the model; Driftwheel splits its traffic between both, the others serve the first."""


def prepare(folder: Path) -> Workplace:
    """The model's versions, in a folder of their own."""
    stable, _ = (make_factor_bundle(folder / "models", version) for version in VERSIONS)
    return Workplace(folder, folder / "models", stable)


def everybody() -> dict[str, Callable[[], Rival]]:
    """How to make each server, by the short name that the command line takes."""
    without_metrics = {"serving": {"metrics": False}} if "metrics" in ServingSettings.model_fields else {}
    return {
        "driftwheel": lambda: Driftwheel(FULL),
        "no-log": lambda: Driftwheel(NO_LOG, log={"sample": 0.0}),
        "bare": lambda: Driftwheel(BARE, log={"sample": 0.0}, **without_metrics),
        "two": lambda: Driftwheel("Driftwheel, 2 workers", serving={"workers": 2}),
        "echo": Echo,
        "grpc-aio": lambda: PythonServer(PLAIN, "grpc_aio_server", needs="grpc"),
        "grpc-aio-uvloop": lambda: PythonServer("grpc.aio, uvloop", "grpc_aio_server", "--uvloop", needs="uvloop"),
        "torchserve": TorchServe,
        "kserve": lambda: PythonServer("KServe", "kserve_server", needs="kserve", spare_ports=1),
    }


def chosen(names: str) -> list[Rival]:
    """The servers named on the command line, or ``all``; those not installed here are named and left out.

    Raises:
        SystemExit: A name is unknown.
    """
    available = everybody()
    wanted = list(available) if names == "all" else [name.strip() for name in names.split(",")]
    if unknown := [name for name in wanted if name not in available]:
        raise SystemExit(f"no server {unknown[0]!r}; there are {', '.join(available)}, or all")
    rivals = [available[name]() for name in wanted]
    for rival in rivals:
        if not rival.installed:
            console().print(f"[yellow]{rival.name} is not installed here, and does not take part[/]")
    return [rival for rival in rivals if rival.installed]


def check_scores(rival: Rival, answer: bytes, rows: int, place: Workplace) -> None:
    """See that a server answered with what the graph says.

    Raises:
        RuntimeError: It did not.
    """
    scores = rival.scores(answer)
    if scores is None:
        return
    users, items = pairs(rows)
    for version in VERSIONS:
        graph = bundle_folder(place.models, place.bundle.name, version) / ONNX_GRAPH
        session: Any = ort.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
        (expected,) = session.run(None, {"user_index": users, "item_index": items})
        if scores.shape == expected.shape and np.allclose(scores, expected, rtol=0, atol=1e-4):
            return
    raise RuntimeError(f"{rival.name} answered {rows} pairs with {scores[:5]} …, which no version of the model does")
