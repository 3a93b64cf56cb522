from pathlib import Path

import pytest

from driftwheel.errors import ConfigurationError
from serving.backends.onnx_options import (
    CPU,
    CUDA,
    TENSORRT,
    providers,
    resolve_device,
    session_options,
    tensorrt_profile,
)


def test_threads_do_not_spin_and_no_plan_is_kept_for_each_number_of_rows() -> None:
    options = session_options(intra_op_threads=3)
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (3, 1)
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert (options.enable_cpu_mem_arena, options.enable_mem_pattern) == (True, False)


@pytest.mark.parametrize(
    ("asked", "available", "taken"),
    [
        ("auto", [CPU], "cpu"),
        ("auto", [TENSORRT, CUDA, CPU], "cuda"),
        ("cpu", [CUDA, CPU], "cpu"),
        ("tensorrt", [TENSORRT, CUDA, CPU], "tensorrt"),
    ],
)
def test_the_device(asked: str, available: list[str], taken: str) -> None:
    assert resolve_device(asked, available) == taken


def test_a_device_that_this_onnxruntime_has_not_is_refused_with_what_to_install() -> None:
    with pytest.raises(
        ConfigurationError, match="'cuda' was asked for, but .* has only CPUExecutionProvider"
    ) as caught:
        resolve_device("cuda", [CPU])
    assert "onnxruntime-gpu" in (caught.value.hint or "")


def test_a_devices_providers_end_with_the_cpu_and_keep_full_precision() -> None:
    assert [name for name, _ in providers("cpu")] == [CPU]
    (_, cuda), _ = providers("cuda", cuda_graphs=True)
    assert (cuda["enable_cuda_graph"], cuda["use_tf32"]) == ("1", "0")
    chosen = providers("tensorrt", cuda_graphs=True, engine_cache=Path("/cache"))
    assert [name for name, _ in chosen] == [TENSORRT, CUDA, CPU]
    tensorrt, cuda = chosen[0][1], chosen[1][1]
    assert (tensorrt["trt_cuda_graph_enable"], cuda["enable_cuda_graph"]) == ("1", "0")
    assert (tensorrt["trt_fp16_enable"], tensorrt["trt_engine_cache_path"]) == ("0", "/cache")
    assert providers("tensorrt")[0][1]["trt_engine_cache_enable"] == "0"


def test_tensorrt_is_told_all_shapes_that_will_come() -> None:
    profile = tensorrt_profile({"category": ["rows", 3], "user_index": ["rows"]}, max_rows=4096)
    assert profile == {
        "trt_profile_min_shapes": "category:1x3,user_index:1",
        "trt_profile_opt_shapes": "category:256x3,user_index:256",
        "trt_profile_max_shapes": "category:4096x3,user_index:4096",
    }
