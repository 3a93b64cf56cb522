"""How a checkpoint lies on disk: one safetensors file a rank that has something to write, and what they mean.

::

    <job>/checkpoints/<epoch>-<step>/         there only when it is whole
      part-<rank>.safetensors    ``model/<name>``, ``best/<name>``, ``optimizer/<parameter>/<name>``, and of a running
                                 epoch ``rank/random`` and ``rank/loss``
      checkpoint.json            the Description, with the SHA-256 of every part, and its own

Nothing is pickled, and a rank reads of another's part only what it needs.
"""

import functools
import hashlib
from dataclasses import dataclass
from pathlib import Path

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from driftwheel.files import sha256_of
from training.job import EpochEvent

DESCRIPTION = "checkpoint.json"


class DamagedCheckpointError(Exception):
    """A checkpoint cannot be read; the message says which file and why. Never leaves ``training.checkpoint``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """What ``checkpoint.json`` says."""

    epoch: int
    """Epochs done."""
    step: int
    """Steps done of the running epoch."""
    step_rows: int
    """Rows of one step over all ranks; 0 between two epochs."""
    ranks: int
    """How many wrote it, or trained on without anything of their own to write."""
    data_ranks: int
    """Into how many parts they split a batch's rows; all losses of the running epoch add up to as many times its mean."""
    best_metric: float | None
    """None before the first epoch's end, and in a refit."""
    epochs_since_best: int
    history: list[EpochEvent]
    rows: list[str]
    """Tensors of which each part holds the rows ``rank::ranks``."""
    sha256: dict[str, str]
    """Of each part, by file name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sealed:
    """The content of ``checkpoint.json``."""

    sha256: str
    """Of the description's bytes."""
    description: msgspec.Raw


def sealed(description: Description) -> bytes:
    """The content of ``checkpoint.json``."""
    content = msgspec.json.encode(description)
    return msgspec.json.encode(_Sealed(sha256=hashlib.sha256(content).hexdigest(), description=msgspec.Raw(content)))


def _opened(content: bytes) -> Description:
    seal = msgspec.json.decode(content, type=_Sealed)
    if hashlib.sha256(seal.description).hexdigest() != seal.sha256:
        raise DamagedCheckpointError("it is not what was written: its checksum differs")
    return msgspec.json.decode(seal.description, type=Description)


def part_name(rank: int) -> str:
    """The file that a rank writes."""
    return f"part-{rank}.safetensors"


class SavedState:
    """The tensors of a checkpoint by name, however many ranks wrote it."""

    def __init__(self, folder: Path) -> None:
        """Raises:
        DamagedCheckpointError: The description is missing or damaged.
        """
        self.folder = folder
        try:
            self.description = _opened((folder / DESCRIPTION).read_bytes())
        except (OSError, msgspec.MsgspecError, DamagedCheckpointError) as error:
            raise DamagedCheckpointError(f"{folder / DESCRIPTION}: {error}") from None

    def verify(self, rank: int, ranks: int) -> None:
        """Compare every ``ranks``-th part, from the one numbered ``rank`` on, with its checksum.

        Raises:
            DamagedCheckpointError: A part is missing or is not what was written.
        """
        for name in sorted(self.description.sha256)[rank::ranks]:
            try:
                found = sha256_of(self.folder / name)
            except OSError as error:
                raise DamagedCheckpointError(f"{self.folder / name}: {error.strerror}") from None
            if found != self.description.sha256[name]:
                raise DamagedCheckpointError(f"{self.folder / name} is not what was written: its checksum differs")

    @functools.cached_property
    def names(self) -> dict[str, list[str]]:
        """The parts that hold each tensor, or rows of it."""
        held: dict[str, list[str]] = {}
        for part in sorted(self.description.sha256, key=lambda name: int(name.split("-")[1].split(".")[0])):
            with self._open(part) as file:
                for name in file.keys():  # noqa: SIM118 (not a dictionary)
                    held.setdefault(name, []).append(part)
        return held

    def whole(self, name: str) -> Tensor:
        """A tensor, put together from the rows of all parts where they share it.

        Raises:
            DamagedCheckpointError: There is none of that name.
        """
        if name not in self.description.rows:
            return self._read(self._holders(name)[0], name)
        pieces = [self._read(part, name) for part in self._holders(name)]
        whole = torch.empty(sum(len(piece) for piece in pieces), *pieces[0].shape[1:], dtype=pieces[0].dtype)
        for rank, piece in enumerate(pieces):
            whole[rank :: len(pieces)] = piece
        return whole

    def rows(self, name: str, rank: int, ranks: int) -> Tensor:
        """The rows ``rank::ranks`` of a tensor; only those are read if the same number of ranks wrote it.

        Raises:
            DamagedCheckpointError: There is none of that name.
        """
        if name in self.description.rows and self.description.ranks == ranks:
            return self._read(part_name(rank), name)
        return self.whole(name)[rank::ranks].clone()

    def of_rank(self, name: str, rank: int) -> Tensor:
        """A tensor that each rank has of its own.

        Raises:
            DamagedCheckpointError: There is none of that name.
        """
        return self._read(part_name(rank), name)

    def _holders(self, name: str) -> list[str]:
        if name not in self.names:
            raise DamagedCheckpointError(f"{self.folder} has no {name}")
        return self.names[name]

    def _read(self, part: str, name: str) -> Tensor:
        with self._open(part) as file:
            try:
                return file.get_tensor(name).clone()  # the file would stay mapped, and in use, as long as the tensor
            except SafetensorError as error:
                raise DamagedCheckpointError(f"{self.folder / part}: {error}") from None

    def _open(self, part: str) -> safe_open:
        try:
            return safe_open(self.folder / part, framework="pt")
        except (OSError, SafetensorError) as error:
            raise DamagedCheckpointError(f"{self.folder / part}: {error}") from None
