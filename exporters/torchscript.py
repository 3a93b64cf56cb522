"""A model as TorchScript."""

import warnings
from pathlib import Path

import torch


def write_torchscript(path: Path, model: torch.nn.Module, example: tuple[torch.Tensor, ...]) -> None:
    """Trace a model; the batch size stays free. Constants are folded, so that the graph serves as fast as it can."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # TorchServe takes nothing newer
        traced = torch.jit.trace(model.eval(), example, check_trace=False)
        torch.jit.freeze(traced).save(str(path))
