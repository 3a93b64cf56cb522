"""The state that lets an interrupted job go on as if nothing had happened."""

import dataclasses
import pickle
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from driftwheel.files import replaced
from training.job import EpochEvent


@dataclass(slots=True, kw_only=True)
class Progress:
    """How far training has come, beside the weights and the optimizer."""

    epoch: int = 0
    """Epochs done."""
    best_metric: float = float("inf")
    best_weights: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    epochs_since_best: int = 0
    history: list[EpochEvent] = field(default_factory=list[EpochEvent])


def save_checkpoint(path: Path, progress: Progress, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Replace the checkpoint, whole or not at all."""
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "epoch": progress.epoch,
        "best_metric": progress.best_metric,
        "best_weights": progress.best_weights,
        "epochs_since_best": progress.epochs_since_best,
        "history": [dataclasses.asdict(event) for event in progress.history],
    }
    with replaced(path) as temporary:
        torch.save(state, temporary)


def load_checkpoint(path: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> Progress:
    """Put a checkpoint's state into the model and the optimizer. Without one, or with a damaged one (which is reported
    on standard error), training starts at the beginning.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
    except FileNotFoundError:
        return Progress()
    except (OSError, EOFError, KeyError, RuntimeError, ValueError, pickle.UnpicklingError) as error:
        print(f"checkpoint {path} is damaged, training starts anew: {error}", file=sys.stderr)  # noqa: T201 (a worker)
        return Progress()
    return Progress(
        epoch=state["epoch"],
        best_metric=state["best_metric"],
        best_weights=state["best_weights"],
        epochs_since_best=state["epochs_since_best"],
        history=[EpochEvent(**event) for event in state["history"]],
    )
