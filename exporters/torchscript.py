"""A model as TorchScript: deprecated in PyTorch, but TorchServe takes nothing newer."""

import warnings
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import torch


def write_torchscript(path: Path, model: torch.nn.Module, example: tuple[torch.Tensor, ...]) -> None:
    """Trace a model; the batch size stays free. Constants are folded in, and nothing is left that trains."""
    with _deprecated():
        traced = torch.jit.trace(model.eval(), example, check_trace=False)
        torch.jit.freeze(traced).save(str(path))


def read_torchscript(path: Path) -> torch.jit.ScriptModule:
    """Read what ``write_torchscript`` wrote."""
    with _deprecated():
        return torch.jit.load(str(path))


@contextmanager
def _deprecated() -> Generator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r".*torch\.jit\..* is deprecated", DeprecationWarning)
        yield
