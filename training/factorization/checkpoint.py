"""How far a factorization has come, in one file. Solving takes minutes where descent takes hours, and a sweep is the smallest
step there is: so it is written now and then, and when the job is told to stop.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import msgspec
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
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: value.detach().cpu().contiguous() for name, value in saved.state.items()}
    try:
        with replaced(path) as temporary:
            save_file(tensors, temporary, metadata={"history": msgspec.json.encode(saved.history).decode()})
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
            history = msgspec.json.decode((file.metadata() or {})["history"], type=tuple[EpochEvent, ...])
            return Saved(history, {name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118 (not a dictionary)
    except (OSError, KeyError, SafetensorError, msgspec.MsgspecError) as error:
        print(f"checkpoint {path} is damaged, training starts anew: {error}", file=sys.stderr)  # noqa: T201 (a worker)
        return None
