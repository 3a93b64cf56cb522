"""How far a factorization has come, in one file. Solving takes minutes where descent takes hours, and a sweep is the smallest
step there is: so it is written now and then, and when the job is told to stop.
"""

import sys
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from driftwheel.errors import TrainingError
from driftwheel.files import replaced
from training.job import EpochEvent

CHECKPOINT = "factorization.safetensors"


@dataclass(frozen=True, slots=True)
class Saved:
    """The epochs done, and the estimator's state after the last; ``best/...`` are the tables after the best one."""

    history: tuple[EpochEvent, ...]
    state: dict[str, Tensor]


def save(path: Path, saved: Saved) -> None:
    """Replace the checkpoint, whole or not at all.

    Raises:
        TrainingError: It cannot be written. The earlier one is untouched.
    """
    tensors = {name: value.detach().cpu().contiguous() for name, value in saved.state.items()}
    metadata = {"history": msgspec.json.encode(saved.history).decode(), "sha256": _sum_of(tensors)}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replaced(path) as temporary:
            save_file(tensors, temporary, metadata=metadata)
    except (OSError, SafetensorError) as error:
        raise TrainingError(
            f"the checkpoint {path} cannot be written: {error}", hint="make room, then run it again"
        ) from None


def load(path: Path) -> Saved | None:
    """Read a checkpoint. None without one, or with a damaged one, which is said on standard error."""
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            history = msgspec.json.decode(metadata["history"], type=tuple[EpochEvent, ...])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dictionary)
        if metadata["sha256"] != _sum_of(tensors):
            raise ValueError("its tensors are not those that were written")
        return Saved(history, tensors)
    except (OSError, KeyError, ValueError, SafetensorError) as error:
        print(f"checkpoint {path} is damaged, training starts anew: {error}", file=sys.stderr)  # noqa: T201 (a worker)
        return None


def _sum_of(tensors: dict[str, Tensor]) -> str:
    found = sha256()
    for name, value in sorted(tensors.items()):
        found.update(name.encode())
        content: Any = value.reshape(-1).view(torch.uint8).numpy()
        found.update(content)
    return found.hexdigest()
