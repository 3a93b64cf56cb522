"""The backend over a real TorchServe, whose archives are made from the bundles that are compared with."""

import itertools
from collections.abc import Generator
from pathlib import Path

import numpy as np
import pytest

from benchmarks.models import make_factor_bundle
from driftwheel.bundle import ONNX_GRAPH, Bundle
from driftwheel.contracts import OutputSpec, Signature
from driftwheel.errors import BundleError, ConfigurationError, ModelFaultError, UnavailableError
from driftwheel.preprocessing import encode
from driftwheel.settings import load_settings
from exporters.archive import write_archive
from serving._proto import torchserve_inference_pb2 as pb
from serving.backends.base import Backend, RemoteBackend
from serving.backends.choice import open_backend
from serving.backends.onnx import OnnxBackend
from serving.backends.torchserve import TorchServeBackend
from serving.backends.torchserve_link import TorchServeLink, located_in
from tests.bundles import CONTRACTS, RATING_SIGNATURE, make_churn_bundle, make_rating_bundle
from tests.serving.backends.cases import Case
from tests.serving.backends.contract import BackendContract
from tests.serving.backends.fake_torchserve import FEED
from tests.serving.torchserve.running import RunningTorchServe, needs_java

Bundles = dict[str, Bundle]


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Bundles:
    models = tmp_path_factory.mktemp("models")
    made = [
        make_rating_bundle(models, 1),
        make_churn_bundle(models, 1),
        make_factor_bundle(models, 1, name="films", users=300, items=900, factors=16),
    ]
    return {bundle.name: bundle for bundle in made}


@pytest.fixture(scope="module")
def torchserve(bundles: Bundles, tmp_path_factory: pytest.TempPathFactory) -> Generator[RunningTorchServe]:
    """Changed by no test."""
    pytest.importorskip("ts", reason="needs torchserve")
    archives = {(bundle.name, str(bundle.version)): write_archive(bundle) for bundle in bundles.values()}
    server = RunningTorchServe(tmp_path_factory.mktemp("home"), archives)
    try:
        yield server.start()
    finally:
        server.kill()


def opened(bundle: Bundle, torchserve: RunningTorchServe) -> Backend:
    """As the server opens it."""
    limits = load_settings(serving={"backend": "torchserve"}).serving.limits_for(bundle.name, bundle.version)
    return open_backend(bundle, limits, torchserve=torchserve.folder)


@needs_java
@pytest.mark.system
class TestTorchServeBackend(BackendContract):
    """The cases' graphs are those of the bundles."""

    suffix = ".onnx"

    @pytest.fixture(autouse=True)
    def _here(self, torchserve: RunningTorchServe, bundles: Bundles) -> Generator[None]:
        self._torchserve, self._opened = torchserve, list[Backend]()
        self._bundles = {bundle.manifest.signature.outputs[0].name: bundle for bundle in bundles.values()}
        self._bundles["score"] = bundles["mf"]
        yield
        for backend in self._opened:
            backend.close()

    def open(self, graph: Path, outputs: list[str]) -> Backend:
        backend = opened(self._bundles[outputs[0]], self._torchserve)
        self._opened.append(backend)
        return backend

    # TorchServe loads the graph, and refuses one that is damaged (test_handlers_loading); its memory is its own.
    test_a_damaged_graph_is_refused_by_name = None
    test_a_graph_that_is_not_there_is_refused_by_name = None
    test_closing_gives_the_memory_back = None

    def test_it_is_remote_and_up(self, backend: Backend) -> None:
        assert isinstance(backend, RemoteBackend)
        assert (backend.platform, backend.down) == ("torchserve_onnx", None)

    def test_more_rows_than_one_message_may_hold(self, backend: Backend, case: Case) -> None:
        rows = 700_000  # 11 MB of pairs; TorchServe takes 6.5 MB in one message
        np.testing.assert_allclose(backend.run(case.feed(rows))[case.output], case.answers(rows), atol=1e-6)

    def test_no_rows_are_no_call(self, backend: Backend, case: Case) -> None:
        assert backend.run(case.feed(0))[case.output].shape == (0,)


@needs_java
@pytest.mark.system
def test_a_version_that_torchserve_does_not_have_is_refused_by_name(torchserve: RunningTorchServe, bundles) -> None:
    backend = TorchServeBackend(
        TorchServeLink(located_in(torchserve.folder)), name="mf", version=9, signature=RATING_SIGNATURE, timeout_s=10
    )
    with pytest.raises(UnavailableError, match="has no mf version 9"):
        backend.run({"user_index": np.array([1]), "item_index": np.array([1])})
    backend.close()


@needs_java
@pytest.mark.system
@pytest.mark.parametrize("model", ["films", "churn"])
def test_ten_thousand_random_requests_are_answered_as_in_this_process(
    model: str, torchserve: RunningTorchServe, bundles: Bundles
) -> None:
    """Known and unknown ids, present and missing numbers; joined to runs of every size, as the batcher joins them."""
    bundle, random = bundles[model], np.random.default_rng(7)
    here = OnnxBackend(bundle.path(ONNX_GRAPH), intra_op_threads=1)
    there = opened(bundle, torchserve)
    requests = 10_000
    if model == "films":
        columns = {"user_id": random.integers(-5, 400, requests), "item_id": random.integers(-5, 1200, requests)}
    else:
        tenure = np.where(random.random(requests) < 0.1, np.nan, random.uniform(0, 90, requests)).astype(np.float32)
        columns = {"contract": random.choice([*CONTRACTS, "", "else"], requests), "tenure": tenure}
    feed = encode(bundle.manifest.signature, bundle.vocabularies(), columns)
    (name,) = (spec.name for spec in bundle.manifest.signature.outputs)
    cuts = [0, *np.cumsum(random.geometric(1 / 60, requests)), requests]
    ends = sorted({min(int(cut), requests) for cut in cuts})
    answers = [
        there.run({key: values[start:end] for key, values in feed.items()})[name]
        for start, end in itertools.pairwise(ends)
    ]
    assert len(answers) > 100
    np.testing.assert_allclose(np.concatenate(answers), here.run(feed)[name], rtol=0, atol=1e-5)
    there.close()


class TestAnswers:
    """What TorchServe may say where it should answer with numbers, and what it is not asked."""

    @pytest.mark.parametrize(
        ("answer", "says"),
        [
            (b"", "answered 2 rows with 0 bytes, not 2 float32"),
            (b"12345678 ", "answered 2 rows with 9 bytes"),
            (b"[3.1, 3.7]", "answered 2 rows with 10 bytes"),
            (b'{"code":400,"type":"x","message":"no such row"}', "the model failed: no such row"),
            (b'{"code":', "the model failed: {"),
        ],
    )
    def test_what_is_not_numbers_is_a_fault(self, fake, linked, answer: bytes, says: str) -> None:
        fake.answer = lambda request: answer
        with pytest.raises(ModelFaultError, match=says):
            linked.run(FEED)
        assert linked.down is None

    def test_what_is_no_message_is_a_fault(self, linked, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(linked._link, "call", lambda message, timeout_s: b"\xff\xff")
        with pytest.raises(ModelFaultError, match="TorchServe's answer cannot be read"):
            linked.run(FEED)

    def test_numbers_that_are_none_are_the_scorers_business(self, fake, linked) -> None:
        fake.answer = lambda request: np.array([np.nan, 1], "<f4").tobytes()
        answer = linked.run(FEED)["score"]
        assert (np.isnan(answer[0]), answer[1]) == (True, 1.0)

    def test_columns_travel_as_raw_numbers(self, fake, linked) -> None:
        linked.run(FEED)
        (asked,) = fake.asked
        raw = np.array([1, 2], "<i8").tobytes()
        assert asked == pb.PredictionsRequest(
            model_name="mf", model_version="1", input={"user_index": raw, "item_index": raw}
        )

    def test_a_feed_that_does_not_fit_is_not_sent(self, fake, linked) -> None:
        with pytest.raises(ModelFaultError, match=r"'user_index' must be int64 \['rows'\], got float64 \[2\]"):
            linked.run({**FEED, "user_index": np.array([1.0, 2.0])})
        assert fake.asked == []

    def test_a_signature_with_several_outputs_is_refused(self, fake) -> None:
        two = Signature(
            inputs=RATING_SIGNATURE.inputs,
            outputs=(OutputSpec(name="a", low=0, high=1), OutputSpec(name="b", low=0, high=1)),
            label="rating",
            label_low=0,
            label_high=1,
        )
        link = TorchServeLink(fake.locate)
        with pytest.raises(BundleError, match="answers with one output, mf version 1 has a, b"):
            TorchServeBackend(link, name="mf", version=1, signature=two, timeout_s=10)
        assert link.down == "the model has been unloaded"


def test_without_a_torchserve_loading_says_what_is_missing(bundles: Bundles, tmp_path: Path) -> None:
    limits = load_settings(serving={"backend": "torchserve"}).serving.limits_for("mf", 1)
    with pytest.raises(UnavailableError, match=r"mf version 1 is to run on TorchServe: no TorchServe has been started"):
        open_backend(bundles["mf"], limits, torchserve=tmp_path)
    with pytest.raises(ConfigurationError, match="nothing tells where that is"):
        open_backend(bundles["mf"], limits)


def test_single_versions_may_run_elsewhere() -> None:
    serving = load_settings(serving={"models": {"mf": {"version_backends": {"2": "torchserve"}}}}).serving
    assert [serving.limits_for("mf", version).backend for version in (1, 2, None)] == ["auto", "torchserve", "auto"]
    assert serving.limits_for("churn", 2).backend == "auto"
    assert (serving.runs_on("torchserve"), serving.runs_on("torchscript")) == (True, False)
