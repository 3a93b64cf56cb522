from pathlib import Path

import onnxruntime as ort
import pytest

from driftwheel.errors import BundleError
from serving.backends.onnx import OnnxBackend, open_session
from serving.backends.onnx_options import session_options
from tests.serving.backends.cases import make_rating
from tests.serving.backends.contract import BackendContract


class TestOnnxBackend(BackendContract):
    suffix = ".onnx"

    def open(self, graph: Path, outputs: list[str]) -> OnnxBackend:
        return OnnxBackend(graph, intra_op_threads=1)


class TestOnnxBackendWithThreads(BackendContract):
    suffix = ".onnx"

    def open(self, graph: Path, outputs: list[str]) -> OnnxBackend:
        return OnnxBackend(graph, intra_op_threads=2)


def test_a_provider_that_cannot_start_is_not_replaced_without_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Fallen(ort.InferenceSession):
        def get_providers(self) -> list[str]:
            return ["CPUExecutionProvider"]

    monkeypatch.setattr(ort, "InferenceSession", Fallen)
    case = make_rating(tmp_path / "model.onnx")
    with pytest.raises(BundleError, match="cannot run .*model.onnx with AzureExecutionProvider, it took CPU"):
        open_session(case.graph, session_options(intra_op_threads=1), [("AzureExecutionProvider", {})])
