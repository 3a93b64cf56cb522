"""A model as ONNX, through ``torch.export``."""

import contextlib
import io
import logging
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import torch

OPSET = 20
"""The newest that both the exporter and onnxruntime's CPU, CUDA and TensorRT providers take without conversion."""


def write_onnx(
    path: Path, model: torch.nn.Module, example: tuple[torch.Tensor, ...], inputs: list[str], outputs: list[str]
) -> None:
    """Export a model whose arguments and results all have the batch as their first dimension.

    The older exporter that traces TorchScript is four seconds faster (its imports are lighter) but deprecated, and to
    be removed.

    Args:
        example: Arguments with at least two rows: ``torch.export`` would take one row for a constant.
    """
    batch = torch.export.Dim.DYNAMIC
    with _quiet():
        torch.onnx.export(
            model.eval(),
            example,
            path,
            input_names=inputs,
            output_names=outputs,
            dynamic_shapes=tuple({0: batch} for _ in example),
            opset_version=OPSET,
            dynamo=True,
            external_data=False,  # one file, whole or absent
            verbose=False,
        )


@contextmanager
def _quiet() -> Generator[None]:
    """Keep the exporter's progress and its warnings about its own insides off the terminal."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
