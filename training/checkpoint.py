"""The state that lets an interrupted job go on as if nothing had happened, written and read by all ranks together."""

import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from driftwheel.errors import TrainingError
from driftwheel.files import TEMPORARY_PREFIX, sha256_of, sync_folder, write_atomically
from training.checkpoint_files import DESCRIPTION, DamagedCheckpointError, Description, SavedState, part_name, sealed
from training.job import EpochEvent
from training.placement import Placement

_KEPT = 2
"""The newest, and the one before it in case the newest is damaged."""

_DIGEST_BYTES = 32


@dataclass(slots=True, kw_only=True)
class Progress:
    """How far training has come, beside the weights and the optimizer."""

    epoch: int = 0
    """Epochs done."""
    step: int = 0
    """Steps done of the running epoch."""
    step_rows: int = 0
    """Rows of one step over all ranks, of the running epoch."""
    loss: Tensor | None = None
    """The sum of this rank's losses over the steps of the running epoch, a scalar; None before the first."""
    random: Tensor | None = None
    """The state of this rank's random numbers amid an epoch; None at the beginning of one, which seeds them anew."""
    best_metric: float = float("inf")
    best_weights: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    """On the CPU; of a sharded table this rank's rows."""
    epochs_since_best: int = 0
    history: list[EpochEvent] = field(default_factory=list[EpochEvent])


class Checkpoints:
    """A job's checkpoints. Every method is called by all ranks together.

    A checkpoint does not depend on how many ranks wrote it, or on what they shared: it can be read by others.
    """

    def __init__(self, folder: Path, placement: Placement) -> None:
        self._folder = folder
        self._placement = placement

    def save(self, progress: Progress, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Write a checkpoint, whole or not at all, and drop those before the last.

        Raises:
            TrainingError: A rank could not write its part. The earlier checkpoints are untouched.
        """
        name = f"{progress.epoch:06}-{progress.step:08}"
        temporary = self._folder / f"{TEMPORARY_PREFIX}{name}"
        tensors = self._tensors(progress, model, optimizer)
        digest, fault = bytes(_DIGEST_BYTES), None
        try:
            temporary.mkdir(parents=True, exist_ok=True)
            if tensors:
                digest = _written(temporary / part_name(self._placement.rank), tensors)
        except (OSError, SafetensorError) as error:
            fault = str(error)
        self._agree(fault, temporary)
        digests = self._gathered(digest)
        if self._placement.rank == 0:
            rows = [name for name, value in tensors.items() if value.ndim and _parameter(name) in self._placement.rows]
            description = _description(progress, self._placement.data_ranks, rows, digests)
            try:
                self._publish(temporary, self._folder / name, description)
            except OSError as error:
                fault = str(error)
        self._agree(fault, temporary)

    def load(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> Progress:
        """Put the newest whole checkpoint's state into the model and the optimizer. A damaged one is reported on standard
        error and passed over; without any, training starts at the beginning.
        """
        for epoch, step in self._candidates():
            folder = self._folder / f"{epoch:06}-{step:08}"
            saved, fault = None, None
            try:
                saved = SavedState(folder)
                saved.verify(self._placement.rank, self._placement.ranks)
                state = self._read(saved, model, optimizer)
            except DamagedCheckpointError as error:
                fault, state = str(error), None
            if _all_well(fault is None) and saved is not None and state is not None:
                _apply(state, model, optimizer)
                return self._progress(saved, state)
            if fault is not None:
                _say(f"checkpoint {folder.name} is damaged, training goes on from the one before it, or anew: {fault}")
        return Progress()

    def best_weights(self) -> dict[str, Tensor]:
        """The whole best weights, from the newest checkpoint; for one rank alone.

        Raises:
            TrainingError: It is damaged.
        """
        try:
            saved = SavedState(self._folder / _stems(self._folder)[0])
            return {name.removeprefix("best/"): saved.whole(name) for name in saved.names if name.startswith("best/")}
        except DamagedCheckpointError as error:
            raise TrainingError(f"the model cannot be put together from its checkpoint: {error}") from None

    def _tensors(self, progress: Progress, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
        writes = self._placement.writes
        tensors = {f"model/{name}": value for name, value in model.state_dict().items() if writes(name)}
        tensors |= {f"best/{name}": value for name, value in progress.best_weights.items() if writes(name)}
        for name, parameter in model.named_parameters():
            if writes(name):
                state = optimizer.state.get(parameter, {})
                tensors |= {f"optimizer/{name}/{key}": value for key, value in state.items()}
        if progress.random is not None and progress.loss is not None:
            tensors |= {"rank/random": progress.random, "rank/loss": progress.loss}
        return {name: value.detach().cpu().contiguous() for name, value in tensors.items()}

    def _agree(self, fault: str | None, temporary: Path) -> None:
        """Go on if no rank met a fault; else leave nothing half-written, and raise an error on every rank."""
        if _all_well(fault is None):
            return
        if self._placement.rank == 0:
            shutil.rmtree(temporary, ignore_errors=True)
        cause = fault or "another rank could not write its part"
        raise TrainingError(
            f"no checkpoint could be written to {self._folder}: {cause}",
            hint="the one before is untouched: make room and train again, and it will go on there",
        )

    def _gathered(self, digest: bytes) -> dict[str, str]:
        """The digests of all parts, by file name. A rank that has nothing to write brings zeros."""
        mine = torch.frombuffer(bytearray(digest), dtype=torch.uint8)
        all_ranks = [torch.empty_like(mine) for _ in range(self._placement.ranks)]
        dist.all_gather(all_ranks, mine)
        return {part_name(rank): bytes(each.tolist()).hex() for rank, each in enumerate(all_ranks) if each.any()}

    def _publish(self, temporary: Path, folder: Path, description: Description) -> None:
        write_atomically(temporary / DESCRIPTION, sealed(description))
        if folder.exists():  # a damaged one, which was passed over
            shutil.rmtree(folder)
        temporary.rename(folder)
        sync_folder(self._folder)
        for stem in _stems(self._folder)[_KEPT:]:
            shutil.rmtree(self._folder / stem, ignore_errors=True)  # what stays is dropped next time

    def _candidates(self) -> list[tuple[int, int]]:
        """Epoch and step of the newest checkpoints, as rank 0 sees them (a shared folder may look different to others)."""
        found = torch.full((_KEPT, 2), -1, dtype=torch.int64)
        if self._placement.rank == 0:
            for row, stem in enumerate(_stems(self._folder)[:_KEPT]):
                found[row] = torch.tensor([int(number) for number in stem.split("-")])
        dist.broadcast(found, 0)
        return [(epoch, step) for epoch, step in found.tolist() if epoch >= 0]

    def _read(self, saved: SavedState, model: nn.Module, optimizer: torch.optim.Optimizer) -> "_State":
        """All that this rank needs of a checkpoint, before anything of the model is touched."""
        rank, ranks = self._placement.rank, self._placement.ranks

        def read(name: str, like: Tensor | None = None) -> Tensor:
            sharded = _parameter(name) in self._placement.rows and not name.endswith("/step")
            value = saved.rows(name, rank, ranks) if sharded else saved.whole(name)
            if like is not None and value.shape != like.shape:
                raise DamagedCheckpointError(f"{name} is {list(value.shape)}, the model's is {list(like.shape)}")
            return value

        own = model.state_dict()
        moments: dict[int, dict[str, Tensor]] = {}
        trained = {id(p): n for n, p in enumerate(p for group in optimizer.param_groups for p in group["params"])}
        for name, parameter in model.named_parameters():
            prefix = f"optimizer/{name}/"
            keys = [key for key in saved.names if key.startswith(prefix)]
            if keys and id(parameter) in trained:
                moments[trained[id(parameter)]] = {key.removeprefix(prefix): read(key) for key in keys}
        return _State(
            weights={name: read(f"model/{name}", value) for name, value in own.items()},
            best={name: read(f"best/{name}", value) for name, value in own.items() if f"best/{name}" in saved.names},
            moments=moments,
        )

    def _progress(self, saved: SavedState, state: "_State") -> Progress:
        known = saved.description
        progress = Progress(
            epoch=known.epoch,
            step=known.step,
            step_rows=known.step_rows,
            best_metric=float("inf") if known.best_metric is None else known.best_metric,
            best_weights=state.best,
            epochs_since_best=known.epochs_since_best,
            history=known.history,
        )
        here = self._placement
        if known.step and known.ranks == here.ranks:  # else random numbers begin as the epoch's do
            progress.random = saved.of_rank("rank/random", here.rank)
        if known.step and (known.ranks, known.data_ranks) == (here.ranks, here.data_ranks):
            progress.loss = saved.of_rank("rank/loss", here.rank)
        elif known.step:  # the same mean, in other hands
            losses = [saved.of_rank("rank/loss", rank) for rank in range(known.ranks)]
            progress.loss = torch.stack(losses).sum() / known.data_ranks * here.data_ranks / here.ranks
        return progress


@dataclass(frozen=True, slots=True)
class _State:
    weights: dict[str, Tensor]
    best: dict[str, Tensor]
    moments: Mapping[int, dict[str, Tensor]]


def _apply(state: _State, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    model.load_state_dict(state.weights)
    optimizer.load_state_dict({"state": state.moments, "param_groups": optimizer.state_dict()["param_groups"]})


def _description(progress: Progress, data_ranks: int, rows: list[str], digests: dict[str, str]) -> Description:
    return Description(
        epoch=progress.epoch,
        step=progress.step,
        step_rows=progress.step_rows,
        ranks=dist.get_world_size(),
        data_ranks=data_ranks,
        best_metric=progress.best_metric if progress.best_metric < float("inf") else None,
        epochs_since_best=progress.epochs_since_best,
        history=progress.history,
        rows=rows,
        sha256=digests,
    )


def _written(path: Path, tensors: dict[str, Tensor]) -> bytes:
    """Write a part through to the disk; its SHA-256."""
    save_file(tensors, path)
    with path.open("rb+") as file:
        os.fsync(file.fileno())
    return bytes.fromhex(sha256_of(path))


def _parameter(name: str) -> str:
    """The model's own name in a tensor's name."""
    kind, _, rest = name.partition("/")
    return rest.rpartition("/")[0] if kind == "optimizer" else rest


def _stems(folder: Path) -> list[str]:
    """The checkpoints in a folder, newest first."""
    return sorted((path.name for path in folder.glob("[0-9]*-[0-9]*")), reverse=True)


def _all_well(well: bool) -> bool:  # noqa: FBT001 (a predicate over ranks)
    answer = torch.tensor(int(well))
    dist.all_reduce(answer, dist.ReduceOp.MIN)
    return bool(answer.item())


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # noqa: T201 (a worker)
