import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from driftwheel.bundle import TORCHSCRIPT_GRAPH, Bundle, read_bundle
from driftwheel.errors import BundleError, ConfigurationError
from driftwheel.preprocessing import encode
from driftwheel.settings import load_settings
from serving.backends.base import Backend
from serving.backends.choice import open_backend
from serving.backends.factor_kernel import factor_kernel
from serving.backends.onnx_options import CPU, CUDA
from tests import bundles
from tests.serving.backends.cases import make_rating


@pytest.fixture
def plain(tmp_path: Path) -> Bundle:
    return bundles.make_rating_bundle(tmp_path / "models", 1)


@pytest.fixture
def both(plain: Bundle, tmp_path: Path) -> Bundle:
    """The same bundle with a TorchScript graph."""
    folder = shutil.copytree(plain.folder, tmp_path / "both" / "mf" / "1")
    make_rating(folder / TORCHSCRIPT_GRAPH)
    (folder / "bundle.json").unlink()
    bundles._seal(folder, "mf", 1, "rating", bundles.RATING_SIGNATURE, plain.vocabularies())
    return read_bundle(tmp_path / "both", "mf", 1)


def opened(bundle: Bundle, **serving: object) -> Backend:
    return open_backend(bundle, load_settings(serving=serving).serving.limits_for("mf", bundle.version))


AUTO = "onnxruntime_onnx" if factor_kernel() is None else "driftwheel_factors"


@pytest.mark.parametrize(
    ("serving", "platform"),
    [
        ({}, AUTO),
        ({"backend": "onnx"}, "onnxruntime_onnx"),
        ({"backend": "onnx", "device": "cpu"}, "onnxruntime_onnx"),
        ({"backend": "torchscript"}, "pytorch_torchscript"),
        ({"models": {"mf": {"backend": "torchscript"}}}, "pytorch_torchscript"),
        ({"backend": "torchscript", "models": {"mf": {"backend": "auto"}}}, AUTO),
        ({"models": {"mf": {"version_backends": {"1": "onnx"}}}}, "onnxruntime_onnx"),
    ],
)
def test_the_backend_asked_for_answers_the_golden_requests(both: Bundle, serving: dict, platform: str) -> None:
    backend = opened(both, **serving)
    inputs = {"user_id": np.array([7, 15, 99]), "item_id": np.array([10, 50, 40])}
    answer = backend.run(encode(both.manifest.signature, both.vocabularies(), inputs))
    assert backend.platform == platform
    np.testing.assert_allclose(answer["score"], both.golden()["output:score"], atol=1e-6)


def test_a_bundle_without_the_graph_is_refused(plain: Bundle) -> None:
    with pytest.raises(BundleError, match=r"has no model\.ts"):
        opened(plain, backend="torchscript")


def test_torchscript_without_pytorch_says_what_to_do(both: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ConfigurationError, match="'torchscript' was asked for, but PyTorch is not installed") as caught:
        opened(both, backend="torchscript")
    assert "pip install torch" in (caught.value.hint or "")


@pytest.mark.skipif(factor_kernel() is None, reason="needs the C kernel (Debian: gcc libc6-dev at installation)")
def test_factors_of_what_is_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="is not a factorization"):
        opened(bundles.make_churn_bundle(tmp_path / "models", 1), backend="factors")


def test_a_device_that_is_not_there_says_what_to_install(plain: Bundle) -> None:
    with pytest.raises(ConfigurationError, match="device 'tensorrt' was asked for"):
        opened(plain, device="tensorrt")


def test_without_a_device_auto_takes_the_cpu_and_cuda_is_refused(
    plain: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: [CUDA, CPU])
    assert opened(plain).platform == AUTO
    with pytest.raises(BundleError, match=r"model\.onnx.*CUDAExecutionProvider"):
        opened(plain, device="cuda")
