"""What a handler refuses to load, where it runs, what it counts, and that it needs nothing of ours."""

import importlib
import json
import logging
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from driftwheel.bundle import ONNX_GRAPH, Bundle
from exporters.archive import write_archive
from tests.serving.torchserve.in_worker import PAIR, REST, Served, in_process, raw, scores, served, unpacked

pytest.importorskip("ts", reason="needs torchserve")
pytestmark = pytest.mark.usefixtures("_as_in_a_worker")


class TestLoading:
    """What is refused instead of served."""

    @pytest.fixture
    def folder(self, bundles, tmp_path: Path) -> Path:
        return unpacked(bundles["mf", 1], tmp_path)

    @pytest.mark.parametrize(
        "file", ["model.onnx", "bundle.json", "vocabulary/user_id.json", "factors/items.npy", "titles.json"]
    )
    def test_a_damaged_file(self, bundles, folder: Path, file: str) -> None:
        (folder / file).write_bytes((folder / file).read_bytes()[:-1])
        with pytest.raises(RuntimeError, match=f"{file} is damaged: its SHA-256 is"):
            served(bundles["mf", 1], folder).start()
        (folder / file).unlink()
        with pytest.raises(RuntimeError, match=f"{file} is missing"):
            served(bundles["mf", 1], folder).start()

    def test_another_graph(self, bundles, folder: Path) -> None:
        """Whole, but not what answered the golden requests."""
        shutil.copy(bundles["mf", 2].path(ONNX_GRAPH), folder)
        content = json.loads((folder / "archive.json").read_bytes())
        content["files"].pop("model.onnx")
        (folder / "archive.json").write_text(json.dumps(content))
        with pytest.raises(
            RuntimeError, match="mf version 1 answers its golden requests otherwise than when it was exported"
        ):
            served(bundles["mf", 1], folder).start()

    def test_another_task(self, bundles, folder: Path) -> None:
        with pytest.raises(RuntimeError, match="mf version 1 is for the task 'rating', not 'churn'"):
            served(bundles["churn", 1], folder).start()

    def test_without_factors_it_scores_and_does_not_recommend(self, bundles, folder: Path) -> None:
        shutil.rmtree(folder / "factors")
        content = json.loads((folder / "archive.json").read_bytes())
        content["files"] = {file: one for file, one in content["files"].items() if not file.startswith("factors/")}
        (folder / "archive.json").write_text(json.dumps(content))
        subject = served(bundles["mf", 1], folder).start()
        scored, asked = subject.batch({"body": [PAIR]}, {"body": {"user_id": 7}}, headers=REST)
        assert (json.loads(scored), subject.statuses) == (pytest.approx([3.1]), [200, 404])
        assert "its bundle has no factors" in json.loads(asked)["message"]

    def test_a_gpu_that_is_not_there_is_said(self, bundles, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
        if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
            pytest.skip("has a CUDA device")
        subject = served(bundles["mf", 1], folder).start(gpu=0)
        assert "the graph runs on the CPU, not on GPU 0" in caplog.text
        assert subject.handler._graph.device == "cpu"


def test_the_gpu_that_torchserve_gives_is_asked_for() -> None:
    providers = importlib.import_module("driftwheel_graph").onnx_providers
    cpu = ("CPUExecutionProvider", {})
    both = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    assert providers(None, both) == [cpu]
    assert providers(1, ["CPUExecutionProvider"]) == [cpu]
    (name, options), last = providers(1, both)
    assert (name, options["device_id"], options["use_tf32"], last) == ("CUDAExecutionProvider", "1", "0", cpu)


@pytest.mark.gpu
@pytest.mark.skipif(
    "CUDAExecutionProvider" not in onnxruntime.get_available_providers(), reason="needs onnxruntime-gpu and a device"
)
def test_on_a_gpu(bundles, folders) -> None:
    subject = served(bundles["films", 1], folders["films"]).start(gpu=0)
    assert subject.handler._graph.device == "cuda:0"
    users, items = [1, 5, 299], [7, 8, 9]
    (answer,) = subject.batch({"user_id": raw(*users), "item_id": raw(*items)})
    expected = in_process(subject.bundle, {"user_id": users, "item_id": items})
    np.testing.assert_allclose(scores(answer), expected, atol=1e-5)


def test_counts_are_told_together_and_nothing_else_is(mf: Served, caplog: pytest.LogCaptureFixture) -> None:
    counts = mf.handler._counts
    for _ in range(3):
        mf.batch({"user_id": raw(7, 15), "item_id": raw(10, 20)}, {"body": "{}"})
    counts._timer.cancel()
    counts._tell()
    mf.context.metrics.set_request_ids({0: "a", 1: "b"})
    mf.context.metrics.add_time("PredictionTime", 3.0)
    logging.getLogger().info("Backend received inference at: 1")
    lines = [record.getMessage() for record in caplog.records]
    told = {line.split("|")[0]: line for line in lines}
    names = [
        "[METRICS]DriftwheelBatches.Count:3",
        "[METRICS]DriftwheelRows.Count:6",
        "[METRICS]DriftwheelRefused.Count:3",
    ]
    assert set(names) < set(told)
    assert "ModelName:mf,ModelVersion:1" in told[names[0]]
    assert len(lines) == 4, lines


ALONE = """
import importlib.abc, sys
class Refusing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"driftwheel", "serving", "exporters", "training", "msgspec", "pyarrow", "structlog", %s}:
            raise ImportError(f"{name} is not to be imported")
sys.meta_path.insert(0, Refusing())
sys.path.insert(0, sys.argv[1])
import numpy as np
from ts.context import Context, RequestProcessor
from ts.metrics.metric_cache_yaml_impl import MetricsCacheYamlImpl
from driftwheel_mf import RatingHandler
metrics = MetricsCacheYamlImpl(sys.argv[1] + "/driftwheel_metrics.yaml")
context = Context("mf", sys.argv[1], None, 8, None, "0.12.0", metrics=metrics)
handler = RatingHandler()
handler.initialize(context)
context.request_processor = [RequestProcessor({})] * 2
pair = {"user_id": np.array([7], "<i8").tobytes(), "item_id": np.array([10], "<i8").tobytes()}
scores, items = handler.handle([pair, {"body": b'{"user_id": 7, "k": 1}'}], context)
print(handler._archive.graph, np.frombuffer(scores, "<f4"), items.decode())
"""


@pytest.mark.parametrize("runtime", ["onnx", "torchscript"])
def test_an_archive_needs_nothing_of_ours(runtime: str, bundles, with_torchscript: Bundle, tmp_path: Path) -> None:
    bundle = bundles["mf", 1] if runtime == "onnx" else with_torchscript
    with zipfile.ZipFile(write_archive(bundle, runtime=runtime)) as archive:
        archive.extractall(tmp_path)
    code = ALONE % ("'torch'" if runtime == "onnx" else "'onnxruntime'")
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, cwd=tmp_path)
    graph = "model.onnx" if runtime == "onnx" else "model.ts"
    assert done.stdout.startswith(f'{graph} [3.1] {{"model":"mf","version":1,"user_id":7'), done.stderr


@pytest.fixture(scope="module")
def with_torchscript(bundles, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """``mf`` 1 again, with the graph as TorchScript beside it."""
    pytest.importorskip("torch")
    from driftwheel.bundle import TORCHSCRIPT_GRAPH, bundle_folder, read_bundle, seal
    from tests.serving.backends.cases import make_rating

    models = tmp_path_factory.mktemp("torchscript")
    folder = bundle_folder(models, "mf", 1)
    shutil.copytree(bundles["mf", 1].folder, folder)
    (folder / "bundle.json").unlink()
    make_rating(folder / TORCHSCRIPT_GRAPH)
    seal(folder, bundles["mf", 1].manifest)
    return read_bundle(models, "mf", 1)
