from pathlib import Path

import msgspec
import numpy as np
import pytest

from benchmarks.models import make_factor_bundle
from driftwheel.bundle import FACTOR_PARAMETERS, ITEM_FACTORS, ONNX_GRAPH, USER_FACTORS, Bundle
from driftwheel.contracts import FactorParameters
from driftwheel.errors import BundleError, ConfigurationError, ModelFaultError
from serving.backends import factor_kernel as kernels
from serving.backends.factors import FactorsBackend, open_factors, proved
from serving.backends.onnx import OnnxBackend
from serving.recommendation.catalogue import Factors
from tests.bundles import make_churn_bundle
from tests.serving.backends.cases import Case
from tests.serving.backends.contract import BackendContract

needs_kernel = pytest.mark.skipif(
    kernels.factor_kernel() is None, reason="needs the C kernel (Debian: gcc libc6-dev at installation)"
)
PARAMETERS = FactorParameters(mean=3.0, low=0.5, high=5.0, vector_damping=1.0, bias_damping=1.0)


def write_factors(folder: Path, users: np.ndarray, items: np.ndarray) -> Path:
    (folder / USER_FACTORS).parent.mkdir(parents=True)
    np.save(folder / USER_FACTORS, users)
    np.save(folder / ITEM_FACTORS, items)
    (folder / FACTOR_PARAMETERS).write_bytes(msgspec.json.encode(PARAMETERS))
    return folder / USER_FACTORS


def tables(factors: int = 7) -> tuple[np.ndarray, np.ndarray]:
    """Row 0 of the users is the unknown; the items have no such row."""
    chance = np.random.default_rng(0)
    users, items = chance.normal(size=(5, factors + 1)), chance.normal(size=(6, factors + 1))
    users[0] = 0
    return users.astype(np.float32), items.astype(np.float32)


def expected(feed: dict[str, np.ndarray], users: np.ndarray, items: np.ndarray) -> np.ndarray:
    items = np.vstack([np.zeros_like(items[:1]), items])
    u, i = users[feed["user_index"]].astype(float), items[feed["item_index"]].astype(float)
    raw = PARAMETERS.mean + u[:, -1] + i[:, -1] + (u[:, :-1] * i[:, :-1]).sum(1)
    return raw.clip(PARAMETERS.low, PARAMETERS.high).astype(np.float32)


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return make_factor_bundle(tmp_path, 1, users=50, items=80, factors=16)


def backend_over(folder: Path) -> FactorsBackend:
    from benchmarks.models import SIGNATURE

    users, items = SIGNATURE.inputs
    return FactorsBackend(Factors.read(folder), users=users, items=items, output="score")


@needs_kernel
class TestFactorsBackend(BackendContract):
    suffix = ".npy"

    @pytest.fixture
    def case(self, tmp_path: Path) -> Case:
        users, items = tables()
        graph = write_factors(tmp_path / "bundle", users, items)
        rows = {"user_index": np.array([0, 1, 3, 2, 1]), "item_index": np.array([4, 0, 2, 5, 1])}
        return Case(graph, "score", rows, lambda feed: expected(feed, users, items))

    def open(self, graph: Path, outputs: list[str]) -> FactorsBackend:
        return backend_over(graph.parent.parent)

    # Memory maps hold nothing until they are read; there is no number that could be missing; and no file has another name.
    test_closing_gives_the_memory_back = None
    test_a_missing_number_is_the_models_business = None
    test_a_graph_that_is_not_there_is_refused_by_name = None


@needs_kernel
@pytest.mark.parametrize("factors", [1, 2, 7, 8, 16, 31, 64, 65, 200])
@pytest.mark.parametrize("pairs", [1, 5, 6, 7, 1000, 20_000])
def test_any_width_and_any_number_of_pairs(tmp_path: Path, factors: int, pairs: int) -> None:
    users, items = tables(factors)
    write_factors(tmp_path, users, items)
    chance = np.random.default_rng(pairs)
    feed = {"user_index": chance.integers(0, 5, pairs), "item_index": chance.integers(0, 7, pairs)}
    scores = backend_over(tmp_path).run(feed)["score"]
    np.testing.assert_allclose(scores, expected(feed, users, items), atol=1e-5)


@needs_kernel
@pytest.mark.parametrize(
    ("name", "index"), [("user_index", 5), ("user_index", -1), ("item_index", 7), ("item_index", -(2**63))]
)
def test_an_index_outside_its_table_is_named_and_nothing_is_read_there(tmp_path: Path, name: str, index: int) -> None:
    write_factors(tmp_path, *tables())
    feed = {"user_index": np.array([1, 2, 3]), "item_index": np.array([1, 2, 3])}
    feed[name][1] = index
    with pytest.raises(ModelFaultError, match=f"pair 1 has an index outside the tables: .*{index}"):
        backend_over(tmp_path).run(feed)


@needs_kernel
def test_what_is_not_a_number_stays_so(tmp_path: Path) -> None:
    users, items = tables()
    users[2, 0] = np.nan
    write_factors(tmp_path, users, items)
    scores = backend_over(tmp_path).run({"user_index": np.array([2, 1]), "item_index": np.array([1, 1])})["score"]
    assert np.isnan(scores).tolist() == [True, False]


@needs_kernel
def test_a_bundles_factors_are_taken_where_they_say_what_the_graph_says(bundle: Bundle) -> None:
    graph = OnnxBackend(bundle.path(ONNX_GRAPH), intra_op_threads=1)
    backend = proved(bundle, graph)
    assert backend is not None
    feed = {"user_index": np.arange(51), "item_index": np.arange(51) + 30}
    np.testing.assert_allclose(backend.run(feed)["score"], graph.run(feed)["score"], atol=1e-5)


@needs_kernel
@pytest.mark.parametrize("damage", ["other", "nan", "more"])
def test_factors_that_say_something_else_are_not_taken_and_that_is_told(
    bundle: Bundle, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    items = np.load(bundle.folder / ITEM_FACTORS)
    if damage == "other":
        items[:, -1] += 0.001
    elif damage == "nan":
        items[:, 0] = np.nan
    else:
        items = np.vstack([items, items])  # the graph knows of half of them only
    np.save(bundle.folder / ITEM_FACTORS, items)
    assert proved(bundle, OnnxBackend(bundle.path(ONNX_GRAPH), intra_op_threads=1)) is None
    assert "backend.factors_differ" in "".join(capsys.readouterr())


def test_without_the_kernel_the_graph_runs(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "find_spec", lambda name: None)
    kernels.factor_kernel.cache_clear()
    try:
        assert proved(bundle, OnnxBackend(bundle.path(ONNX_GRAPH), intra_op_threads=1)) is None
        with pytest.raises(ConfigurationError, match="needs the C kernel"):
            open_factors(bundle)
    finally:
        kernels.factor_kernel.cache_clear()


@needs_kernel
@pytest.mark.parametrize("file", [USER_FACTORS, ITEM_FACTORS])
def test_a_table_that_is_not_there_is_refused_by_name(tmp_path: Path, file: str) -> None:
    write_factors(tmp_path, *tables())
    (tmp_path / file).unlink()
    with pytest.raises(BundleError, match=file):
        backend_over(tmp_path)


@needs_kernel
def test_tables_of_different_widths_are_refused(tmp_path: Path) -> None:
    users, items = tables()
    write_factors(tmp_path, users, items[:, 1:])
    with pytest.raises(BundleError, match="users have 7 factors, items 6"):
        backend_over(tmp_path)


def test_what_is_no_factorization_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="is not a factorization"):
        open_factors(make_churn_bundle(tmp_path, 1))
