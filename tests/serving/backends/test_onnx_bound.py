"""IO binding: on the CPU everywhere, on a device where there is one."""

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from driftwheel.errors import BundleError
from serving.backends.onnx_bound import BoundOnnxBackend
from serving.backends.onnx_options import CUDA, TENSORRT
from tests.serving.backends.cases import make_rating
from tests.serving.backends.contract import BackendContract

BUCKETS = (1, 4, 8, 256)


class TestBoundOnTheCpu(BackendContract):
    suffix = ".onnx"

    def open(self, graph: Path, outputs: list[str]) -> BoundOnnxBackend:
        return BoundOnnxBackend(graph, device="cpu", intra_op_threads=1)


class TestBucketsOnTheCpu(BackendContract):
    suffix = ".onnx"

    def open(self, graph: Path, outputs: list[str]) -> BoundOnnxBackend:
        return BoundOnnxBackend(graph, device="cpu", intra_op_threads=1, buckets=BUCKETS)


def needs(provider: str) -> pytest.MarkDecorator:
    """Skip where onnxruntime has no such provider."""
    there = provider in ort.get_available_providers()
    return pytest.mark.skipif(
        not there, reason=f"this onnxruntime has no {provider}: needs onnxruntime-gpu and a device"
    )


@pytest.mark.gpu
@needs(CUDA)
class TestCuda(BackendContract):
    suffix = ".onnx"

    def open(self, graph: Path, outputs: list[str]) -> BoundOnnxBackend:
        return BoundOnnxBackend(graph, device="cuda", intra_op_threads=1)

    # A device's memory is not this process's, and an index outside a table is not noticed there.
    test_closing_gives_the_memory_back = None
    test_an_index_outside_the_table_is_a_fault = None


@pytest.mark.gpu
@needs(CUDA)
class TestCudaGraphs(TestCuda):
    def open(self, graph: Path, outputs: list[str]) -> BoundOnnxBackend:
        return BoundOnnxBackend(graph, device="cuda", intra_op_threads=1, buckets=BUCKETS)


@pytest.mark.gpu
@needs(TENSORRT)
class TestTensorRt(TestCuda):
    def open(self, graph: Path, outputs: list[str]) -> BoundOnnxBackend:
        cache = graph.parent / "engines"
        return BoundOnnxBackend(
            graph, device="tensorrt", intra_op_threads=1, buckets=BUCKETS, engine_cache=cache, max_rows=32_768
        )


def test_the_rows_that_pad_a_bucket_change_no_answer(tmp_path: Path) -> None:
    case = make_rating(tmp_path / "model.onnx")
    backend = BoundOnnxBackend(case.graph, device="cpu", intra_op_threads=1, buckets=[8])
    backend.run(case.feed(8))
    for rows in (3, 1, 7):
        np.testing.assert_allclose(backend.run(case.feed(rows))["score"], case.answers(rows), atol=1e-6)


def test_a_graph_with_another_free_dimension_gets_no_buckets(tmp_path: Path) -> None:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Neg", ["x"], ["y"])],
        "g",
        [value("x", TensorProto.FLOAT, ["n", "m"])],
        [value("y", TensorProto.FLOAT, ["n", "m"])],
    )
    path = tmp_path / "free.onnx"
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path.write_bytes(model.SerializeToString())
    with pytest.raises(BundleError, match="free.onnx cannot run with fixed numbers of rows: 'x' has a free dimension"):
        BoundOnnxBackend(path, device="cpu", intra_op_threads=1, buckets=[8])
    backend = BoundOnnxBackend(path, device="cpu", intra_op_threads=1)
    np.testing.assert_array_equal(backend.run({"x": np.ones((2, 3), np.float32)})["y"], -np.ones((2, 3)))
