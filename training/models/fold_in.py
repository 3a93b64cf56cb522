"""What it takes, besides a factorization, to answer users that training did not know; beside the model's own files."""

from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from driftwheel.contracts import Preference
from driftwheel.errors import TrainingError

PRIOR = "user_prior.npy"
PREFERENCE = "preference.json"


@dataclass(frozen=True, slots=True)
class FoldIn:
    """Both None: by the damping that the model was trained with."""

    prior: NDArray[np.float32] | None = None
    """The covariance ``[factors + 1, factors + 1]`` of users' vectors and biases, as a multiple of the noise's variance."""
    preference: Preference | None = None
    """Of a model of what users choose."""


def write_fold_in(folder: Path, fold_in: FoldIn) -> None:
    """Write what there is; to make the folder appear whole is the caller's business."""
    if fold_in.prior is not None:
        np.save(folder / PRIOR, fold_in.prior)
    if fold_in.preference is not None:
        (folder / PREFERENCE).write_bytes(msgspec.json.encode(fold_in.preference))


def read_fold_in(folder: Path) -> FoldIn:
    """Read what ``write_fold_in`` wrote.

    Raises:
        TrainingError: A file is damaged.
    """
    prior, preference = folder / PRIOR, folder / PREFERENCE
    try:
        return FoldIn(
            np.load(prior, allow_pickle=False) if prior.exists() else None,
            msgspec.json.decode(preference.read_bytes(), type=Preference) if preference.exists() else None,
        )
    except (OSError, ValueError, EOFError, msgspec.MsgspecError) as error:
        raise TrainingError(f"the model in {folder} is damaged: {error}") from None
