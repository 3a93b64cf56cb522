from pathlib import Path

import numpy as np
import pytest
import torch

from driftwheel.errors import ConfigurationError, ModelFaultError
from serving.backends.torchscript import TorchScriptBackend
from tests.serving.backends.cases import make_rating
from tests.serving.backends.contract import BackendContract


class TestTorchScriptBackend(BackendContract):
    suffix = ".ts"

    def open(self, graph: Path, outputs: list[str]) -> TorchScriptBackend:
        return TorchScriptBackend(graph, outputs, device="cpu", intra_op_threads=1)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch finds no CUDA device")
class TestTorchScriptOnCuda(BackendContract):
    suffix = ".ts"

    def open(self, graph: Path, outputs: list[str]) -> TorchScriptBackend:
        return TorchScriptBackend(graph, outputs, device="cuda", intra_op_threads=1)

    # A device's memory is not this process's, and an index outside a table ends the device's context.
    test_closing_gives_the_memory_back = None
    test_an_index_outside_the_table_is_a_fault = None


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_refused(tmp_path: Path) -> None:
    case = make_rating(tmp_path / "model.ts")
    with pytest.raises(ConfigurationError, match="finds no CUDA device"):
        TorchScriptBackend(case.graph, ["score"], device="cuda", intra_op_threads=1)


def test_more_outputs_than_the_signature_has_are_a_fault(tmp_path: Path) -> None:
    case = make_rating(tmp_path / "model.ts")
    backend = TorchScriptBackend(case.graph, ["score", "other"], device="cpu", intra_op_threads=1)
    with pytest.raises(ModelFaultError, match=r"must give score, other of shape \[1\], it gave \[1\]"):
        backend.run(case.feed(1))


def test_the_pool_of_threads_is_set_unless_it_is_left_to_pytorch(tmp_path: Path) -> None:
    case = make_rating(tmp_path / "model.ts")
    before = torch.get_num_threads()
    try:
        for threads, then in ((2, 2), (0, 2), (1, 1)):
            TorchScriptBackend(case.graph, ["score"], device="cpu", intra_op_threads=threads)
            assert torch.get_num_threads() == then
    finally:
        torch.set_num_threads(before)
    np.testing.assert_equal(torch.get_num_threads(), before)
